//! A benchmark's measurements: each in a fresh process of its own, so that peak memory and warm allocators don't carry over. Linux only (/proc).

use std::path::{Path, PathBuf};

/// Start this program again `repeats` times as `ARGS 0 FILE`, which prints `N` numbers, and give back the median of each.
pub fn medians<const N: usize>(args: &[String], file: &Path, repeats: usize) -> Result<[f64; N], String> {
    let me = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("bench"));
    let mut rows: Vec<[f64; N]> = Vec::new();
    for _ in 0..repeats {
        let out = std::process::Command::new(&me).args(args).arg("0").arg(file).output();
        let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|v| v.parse().ok()).collect();
        rows.push(numbers.try_into().map_err(|_| format!("a measurement failed: {text}"))?);
    }
    Ok(std::array::from_fn(|i| {
        let mut column: Vec<f64> = rows.iter().map(|r| r[i]).collect();
        column.sort_by(f64::total_cmp);
        column.get(repeats / 2).copied().unwrap_or(f64::NAN)
    }))
}

/// Seconds on a CPU, summed over the threads that live; the pool's threads live as long as the process.
pub fn cpu_seconds() -> std::io::Result<f64> {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1e-9;
    }
    Ok(total)
}

pub fn peak_megabytes() -> std::io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0 / 1e6)
}
