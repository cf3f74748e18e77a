//! Buffers that a thread keeps from one call to the next: fresh memory costs a page fault per 4 KiB, more than filling it.
//! They start at a cache line, so that vectors at multiples of 8 values never straddle two.

use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Longer buffers go back to the system (128 MiB: a 96x96x64 window of 48 channels stays).
const KEEP: usize = (128 << 20) / size_of::<Line>();
/// Shorter buffers have a power of two lines, longer ones whole parts of this (1 MiB), which all threads fill.
const PART: usize = (1 << 20) / size_of::<Line>();

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `use_buffer` with `len` values of arbitrary content.
///
/// The buffer is taken out of the thread's store for the time of the call, so nested calls (also through rayon's work
/// stealing) get another one.
pub fn with_scratch<T>(len: usize, use_buffer: impl FnOnce(&mut [f32]) -> T) -> T {
    let lines = len.div_ceil(16);
    let kept = BUFFERS.with_borrow_mut(|buffers| {
        // The shortest that is long enough, so that small requests leave the long ones alone.
        let fits = (0..buffers.len()).filter(|&i| buffers[i].len() >= lines).min_by_key(|&i| buffers[i].len());
        fits.map(|i| buffers.swap_remove(i))
    });
    let mut buffer = kept.unwrap_or_else(|| zeros(lines));
    // SAFETY: `Line` is 16 `f32` without padding, and the buffer holds at least `lines` of them.
    let values = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<f32>(), len) };
    let result = use_buffer(values);
    if buffer.len() <= KEEP {
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    }
    result
}

/// At least so many lines. Whoever writes to a page first waits for the system to clear it, so long buffers are shared out.
fn zeros(lines: usize) -> Vec<Line> {
    if lines <= PART {
        return vec![Line([0.0; 16]); lines.next_power_of_two()];
    }
    let lines = lines.next_multiple_of(PART);
    let mut buffer = Vec::with_capacity(lines);
    let parts = buffer.spare_capacity_mut()[..lines].par_chunks_mut(PART);
    parts.for_each(|part| part.fill(MaybeUninit::new(Line([0.0; 16]))));
    // SAFETY: every line was written.
    unsafe { buffer.set_len(lines) };
    buffer
}

/// For what writes to fresh memory as well as to used.
///
/// # Safety
/// Nothing but values is written.
pub unsafe fn uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the same layout; the caller leaves values.
    unsafe { &mut *(values as *mut [f32] as *mut [MaybeUninit<f32>]) }
}

#[test]
fn scratch_is_reused_and_nests() {
    let mark = |b: &mut [f32]| b[899] = 7.0;
    with_scratch(1000, mark);
    // A buffer between, so that the allocator would give other memory.
    with_scratch(100_000, |between| between.fill(1.0));
    assert_eq!(with_scratch(900, |b| b[899]), 7.0, "what the last call left");
    with_scratch(1000, |outer| {
        outer.fill(3.0);
        with_scratch(1000, |inner| inner.fill(4.0));
        assert!(outer.iter().all(|v| *v == 3.0));
    });
}

#[test]
fn long_buffers_hold_values_to_the_end() {
    let len = 3 * PART * 16 + 5;
    with_scratch(len, |buffer| assert!(buffer.len() == len && buffer.iter().all(|v| *v == 0.0)));
}
