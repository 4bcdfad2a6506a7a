//! The `process_*` series that every Prometheus client library has, read from `/proc/self` at scrape.

use super::queues::{head, line};

/// Writes what `/proc/self` tells; a figure that cannot be read is left out. USER_HZ is 100 by
/// Linux's ABI, whatever the kernel's own tick.
pub(super) fn write_process(out: &mut String, started_unix_s: f64) {
    const TICKS_PER_S: f64 = 100.0;
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // the name in parentheses may hold spaces: count from its end
        let fields: Vec<&str> = match stat.rsplit_once(')') {
            Some((_, rest)) => rest.split_ascii_whitespace().collect(),
            None => Vec::new(),
        };
        let field = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (field(11), field(12)) {
            head(out, "process_cpu_seconds_total", "User and system CPU time spent.", "counter");
            line(out, format_args!("process_cpu_seconds_total {:.2}", (user + system) / TICKS_PER_S));
        }
        if let Some(threads) = field(17) {
            gauge(out, "process_threads", "Threads of the process.", threads);
        }
        if let Some(virtual_bytes) = field(20) {
            gauge(out, "process_virtual_memory_bytes", "Virtual memory size.", virtual_bytes);
        }
    }
    if let Some(bytes) = resident_bytes() {
        gauge(out, "process_resident_memory_bytes", "Resident memory size.", bytes);
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        gauge(out, "process_open_fds", "Open file descriptors.", fds.count() as f64);
    }
    if let Some(max) = fd_limit() {
        gauge(out, "process_max_fds", "Most file descriptors the process may open.", max);
    }
    gauge(out, "process_start_time_seconds", "When the process started, Unix time.", started_unix_s);
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    head(out, name, help, "gauge");
    line(out, format_args!("{name} {value}"));
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let row = status.lines().find(|row| row.starts_with("VmRSS:"))?;
    let kib: f64 = row.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}

fn fd_limit() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let row = limits.lines().find(|row| row.starts_with("Max open files"))?;
    row.split_ascii_whitespace().nth(3)?.parse().ok()
}
