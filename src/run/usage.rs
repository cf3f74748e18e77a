//! Time and memory a process has used. Every figure that the system can't give is `None`, never a guess.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The largest resident memory since the start, or since [`reset_peak_memory`], in bytes (`VmHWM` of Linux).
pub fn peak_memory_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// The resident memory now, in bytes (`VmRSS` of Linux).
pub fn memory_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix(key))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|k| k * 1024)
}

/// Let the peak start again from what is resident now, so that each scan gets its own. False where the system does not offer it.
pub fn reset_peak_memory() -> bool {
    // 5 resets the peak only (proc(5)); the page flags stay as they are.
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// CPU time of all threads of this process so far, user and system, in seconds.
pub fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
    }
    #[cfg(not(unix))]
    None
}

/// Measures one piece of work.
pub struct Stopwatch {
    wall: Instant,
    cpu: Option<f64>,
}

impl Stopwatch {
    pub fn start() -> Self {
        Stopwatch { wall: Instant::now(), cpu: cpu_seconds() }
    }

    pub fn seconds(&self) -> f64 {
        self.wall.elapsed().as_secs_f64()
    }

    pub fn cpu_seconds(&self) -> Option<f64> {
        Some(cpu_seconds()? - self.cpu?)
    }
}

/// Now, in UTC, as `2026-03-01T14:05:09Z`.
pub fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Seconds since 1970 as a date, by H. Hinnant's `civil_from_days`: years that begin in March make the leap day the last of its year.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_seconds() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_allocation_shows_in_the_peak() {
        let before = peak_memory_bytes().unwrap();
        let block = vec![1u8; 256 << 20];
        assert!(std::hint::black_box(&block).iter().step_by(4096).all(|&b| b == 1));
        assert!(peak_memory_bytes().unwrap() >= before.max(256 << 20));
        assert!(memory_bytes().unwrap() <= peak_memory_bytes().unwrap());
        assert!(cpu_seconds().unwrap() > 0.0);
    }
}
