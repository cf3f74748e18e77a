//! No file gets more memory than 4 times its size + 64 MiB before it is refused. A binary of its own: it counts every allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use panscreen_envs::io;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test at a time: the counters are of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// What `f` gives, and the most bytes that it held at once.
fn held<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// Every way to read a file, none of which may succeed or take too much.
fn check_refused(path: &Path) {
    let limit = 4 * std::fs::metadata(path).unwrap().len() as usize + (64 << 20);
    let ways: [(&str, &dyn Fn() -> bool); 3] = [
        ("open", &|| io::open(path).is_ok()),
        ("open_labels", &|| io::open_labels(path).is_ok()),
        ("inspect", &|| io::inspect(path, None).verdict < io::Grade::Error),
    ];
    for (name, read) in ways {
        let (readable, taken) = held(read);
        assert!(!readable, "{name} {}: read", path.display());
        assert!(taken <= limit, "{name} {}: {} MiB taken, {} allowed", path.display(), taken >> 20, limit >> 20);
    }
}

/// A NIfTI-1 header of a float32 scan.
fn header(shape: [i16; 3]) -> Vec<u8> {
    let mut h = vec![0; 352];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348i32.to_le_bytes());
    put(40, &3i16.to_le_bytes());
    (0..3).for_each(|a| put(42 + 2 * a, &shape[a].to_le_bytes()));
    put(70, &16i16.to_le_bytes());
    put(72, &32i16.to_le_bytes());
    (0..3).for_each(|a| put(80 + 4 * a, &1f32.to_le_bytes()));
    put(108, &352f32.to_le_bytes());
    put(344, b"n+1\0");
    h
}

fn header2(shape: [i64; 3]) -> Vec<u8> {
    let mut h = vec![0; 544];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &540i32.to_le_bytes());
    put(4, b"n+2\0\r\n\x1a\n");
    put(12, &16i16.to_le_bytes());
    put(14, &32i16.to_le_bytes());
    put(16, &3i64.to_le_bytes());
    (0..3).for_each(|a| put(24 + 8 * a, &shape[a].to_le_bytes()));
    (0..3).for_each(|a| put(112 + 8 * a, &1f64.to_le_bytes()));
    put(168, &544i64.to_le_bytes());
    h
}

/// `header`, then `pattern` over and over up to `voxel_bytes`, gzipped without ever being whole in memory.
fn packed(path: &Path, header: &[u8], pattern: &[u8], voxel_bytes: usize, last: &[u8]) {
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast());
    gz.write_all(header).unwrap();
    let chunk = pattern.repeat((1 << 16) / pattern.len());
    let mut left = voxel_bytes - last.len();
    while left > 0 {
        let n = left.min(chunk.len());
        gz.write_all(&chunk[..n]).unwrap();
        left -= n;
    }
    gz.write_all(last).unwrap();
    gz.finish().unwrap();
}

#[test]
fn what_is_refused_costs_little_memory() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scan");
    let noise: Vec<u8> = (0u32..1 << 16).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
    let plain = |header: &[u8]| std::fs::write(&path, [header, &noise].concat()).unwrap();

    // Sizes that the file can't hold.
    for shape in [[32767; 3], [2000, 1000, 1000], [600, 600, 100]] {
        plain(&header(shape));
        check_refused(&path);
        plain(&header2(shape.map(i64::from)));
        check_refused(&path);
        packed(&path, &header(shape), &noise, 1 << 18, &[]);
        check_refused(&path);
    }
    plain(&header2([i64::MAX, 1, 1]));
    check_refused(&path);
    // Sizes that it could hold if it were packed better than it is, or nearly holds.
    packed(&path, &header([500, 500, 200]), &[0], 150 << 20, &[]);
    check_refused(&path);
    packed(&path, &header([500, 500, 200]), &[0], 500 * 500 * 200 * 4 - 1, &[]);
    check_refused(&path);
    // All there, and no number in it.
    packed(&path, &header([500, 500, 200]), &f32::NAN.to_le_bytes(), 500 * 500 * 200 * 4, &[]);
    check_refused(&path);
}

#[test]
fn what_is_no_label_costs_little_memory() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mask");
    packed(&path, &header([500, 500, 200]), &[0], 500 * 500 * 200 * 4, &(-3f32).to_le_bytes());
    let limit = 4 * std::fs::metadata(&path).unwrap().len() as usize + (64 << 20);
    let (error, taken) = held(|| io::open_labels(&path).unwrap_err().to_string());
    assert!(error.contains("from -3.0 to 0.0") && taken <= limit, "{error}: {} MiB", taken >> 20);
}

#[test]
fn a_bomb_behind_the_voxels_is_not_unpacked() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scan");
    packed(&path, &header([10, 10, 10]), &[0], 1 << 30, &[]);
    let (opened, taken) = held(|| io::read(&path).unwrap());
    assert!(opened.warnings.iter().any(|w| w.found.contains("more content")), "{:?}", opened.warnings);
    assert!(taken < 2 << 20, "{taken}");
}

#[test]
fn the_bad_files_cost_little_memory() {
    let _alone = ALONE.lock();
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bad");
    let Ok(index) = std::fs::read(dir.join("INDEX.json")) else {
        eprintln!("SKIPPED: ../shared/data/bad not present");
        return;
    };
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    for (name, entry) in index.as_object().unwrap() {
        if entry["expect"] == "error" && !name.contains("mask") && !name.starts_with("orphan") {
            check_refused(&dir.join(name));
        }
    }
}
