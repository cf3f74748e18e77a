//! The program's memory: large blocks begin at a cache line, and what is freed is kept.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// Bytes of a cache line, and of the longest vector register.
const LINE: usize = 64;
/// Bytes from which a block is large. A smaller one would pay for its line with too much of its size.
const LARGE: usize = 4096;

/// The system's allocator, of which large blocks begin at a cache line.
///
/// `malloc` gives 16 bytes of alignment. Every vector of 64 bytes that a kernel loads from such a map or stores to it then lies on two lines, which
/// costs twice.
pub struct CacheLines;

/// A block of the system that holds `layout` at a line behind its own address; `None` for a small one, and where more than a line is asked for.
fn roomy(layout: Layout) -> Option<Layout> {
    let whole = layout.size() >= LARGE && layout.align() <= LINE;
    whole.then(|| Layout::from_size_align(layout.size().checked_add(LINE)?, align_of::<*mut u8>()).ok()).flatten()
}

/// The first line behind `base`: at least a pointer's size behind it, as `base` is aligned to that, and at most [`LINE`] bytes.
fn line_behind(base: *mut u8) -> *mut u8 {
    base.wrapping_add(LINE - base.addr() % LINE)
}

/// The first line behind `base`, which is noted in front of it.
///
/// # Safety
/// `base` is null or has [`LINE`] bytes more than are used.
unsafe fn place(base: *mut u8) -> *mut u8 {
    if base.is_null() {
        return base;
    }
    let at = line_behind(base);
    // SAFETY: see `line_behind`.
    unsafe { at.cast::<*mut u8>().sub(1).write(base) };
    at
}

/// What [`place`] noted.
///
/// # Safety
/// `at` is of [`place`].
unsafe fn base(at: *mut u8) -> *mut u8 {
    // SAFETY: see above.
    unsafe { at.cast::<*mut u8>().sub(1).read() }
}

// SAFETY: blocks are the system's, and a layout always takes the same way.
unsafe impl GlobalAlloc for CacheLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { roomy(layout).map_or_else(|| System.alloc(layout), |roomy| place(System.alloc(roomy))) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { roomy(layout).map_or_else(|| System.alloc_zeroed(layout), |roomy| place(System.alloc_zeroed(roomy))) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; a block with this layout came the same way.
        unsafe { roomy(layout).map_or_else(|| System.dealloc(at, layout), |roomy| System.dealloc(base(at), roomy)) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises: the size is not too large for the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as the caller promises; each way is that of the block's layout.
        unsafe {
            match (roomy(layout), roomy(new)) {
                (None, None) => System.realloc(at, layout, size),
                (Some(from), Some(to)) => {
                    let before = at.offset_from_unsigned(base(at));
                    let block = System.realloc(base(at), from, to.size());
                    let kept = block.wrapping_add(before);
                    // The system may have moved the block by a part of a line. The values first: the note may lie where they were.
                    if !block.is_null() && kept != line_behind(block) {
                        ptr::copy(kept, line_behind(block), layout.size().min(size));
                    }
                    place(block)
                }
                _ => {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        ptr::copy_nonoverlapping(at, to, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    to
                }
            }
        }
    }
}

/// Keep what is freed. Every operation of a network frees maps of hundreds of MiB and asks for others of that size; by default they go back to the
/// system in between, and filling new pages costs a fifth of the time of a network.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as `Vec` uses it: filled, grown and shrunk through sizes on both sides of the limit.
    #[test]
    fn values_survive_every_way_to_another_size() {
        let sizes = [1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE, LARGE, 100, 1 << 20, 40 << 20, (40 << 20) + 4096, LARGE, LARGE - 1, 5];
        for align in [1, 4, 16, 64, 4096] {
            let layout = |size| Layout::from_size_align(size, align).unwrap();
            let byte = |i: usize| (i % 251) as u8;
            // SAFETY: layouts are those of the blocks, and only what they hold is touched.
            unsafe {
                let mut size = sizes[0];
                let mut at = CacheLines.alloc(layout(size));
                (0..size).for_each(|i| at.add(i).write(byte(i)));
                for next in sizes {
                    at = CacheLines.realloc(at, layout(size), next);
                    let kept = size.min(next);
                    assert!((0..kept).all(|i| at.add(i).read() == byte(i)), "from {size} to {next} bytes, alignment {align}");
                    (kept..next).for_each(|i| at.add(i).write(byte(i)));
                    size = next;
                    assert_eq!(at.addr() % align, 0);
                    assert!(size < LARGE || at.addr().is_multiple_of(LINE), "{size} bytes, alignment {align}");
                }
                CacheLines.dealloc(at, layout(size));
            }
        }
    }

    #[test]
    fn fresh_zeros_are_zeros_and_begin_at_a_line() {
        for size in [8, LARGE, 10 * LARGE + 3] {
            let layout = Layout::from_size_align(size, 4).unwrap();
            // SAFETY: as above.
            unsafe {
                let at = CacheLines.alloc_zeroed(layout);
                assert!((0..size).all(|i| at.add(i).read() == 0));
                assert!(size < LARGE || at.addr().is_multiple_of(LINE));
                CacheLines.dealloc(at, layout);
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        let layout = Layout::from_size_align(isize::MAX as usize - LINE, 1).unwrap();
        // SAFETY: nothing was given, so nothing is touched.
        assert!(std::hint::black_box(unsafe { CacheLines.alloc(layout) }).is_null());
    }
}
