//! The daemon's process as proc(5) shows it, under the names that Prometheus has for every process.

use crisp_sys::stat::ProcessStat;
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::fs;
use std::path::Path;

/// Looks at the process whenever it is asked.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

/// What proc_pid_stat(5) has.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// After the host's boot.
    started_seconds: f64,
    threads: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        if let Some(stat) = Stat::read() {
            counter(
                encoder,
                "process_cpu_seconds",
                "Processor time of the daemon",
                stat.cpu_seconds,
            )?;
            let resident = whole(stat.resident_bytes);
            gauge(
                encoder,
                "process_resident_memory_bytes",
                "Memory of the daemon that is in RAM",
                resident,
            )?;
            gauge(
                encoder,
                "process_virtual_memory_bytes",
                "Address space of the daemon",
                whole(stat.virtual_bytes),
            )?;
            gauge(
                encoder,
                "process_threads",
                "Threads of the daemon",
                whole(stat.threads),
            )?;
            if let Some(boot) = boot_time() {
                let started = boot + stat.started_seconds;
                fraction(
                    encoder,
                    "process_start_time_seconds",
                    "When the daemon was started, in seconds since 1970",
                    started,
                )?;
            }
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One is the directory itself.
            let open = files.count().saturating_sub(1) as u64;
            gauge(
                encoder,
                "process_open_fds",
                "Open files of the daemon",
                whole(open),
            )?;
        }
        if let Some(max) = open_files_max() {
            gauge(
                encoder,
                "process_max_fds",
                "How many files the daemon may open",
                whole(max),
            )?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn fraction(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> Result<(), fmt::Error> {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = ProcessStat::read(Path::new("/proc/self")).ok()?;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let page_bytes = u64::try_from(page_bytes).ok()?;
        #[allow(clippy::cast_precision_loss, reason = "a hundred in practice")]
        Self::of(&stat, per_second as f64, page_bytes)
    }

    fn of(stat: &ProcessStat, ticks_per_second: f64, page_bytes: u64) -> Option<Self> {
        let field = |number| stat.field::<u64>(number);
        #[allow(clippy::cast_precision_loss, reason = "exact for 285 years of uptime")]
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_seconds: seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(page_bytes),
        })
    }
}

/// When the host was started, in seconds since 1970 (proc_stat(5)).
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .parse()
        .ok()
}

/// The soft limit on open files; None: there is none.
fn open_files_max() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let values = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files "))?;
    values.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_manual_page() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1200 8192 3 18446744073709551615 1";
        let of = |text| Stat::of(&ProcessStat::parse(text).unwrap(), 100.0, 4096);
        assert_eq!(
            of(text),
            Some(Stat {
                cpu_seconds: 2.0,
                started_seconds: 12.0,
                threads: 9,
                virtual_bytes: 8192,
                resident_bytes: 12288,
            })
        );
        assert_eq!(of("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_figures() {
        assert!(Stat::read().unwrap().resident_bytes > 0);
        assert!(boot_time().unwrap() > 0.0);
    }
}
