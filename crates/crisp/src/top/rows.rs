//! The table: a row for each pod, and below it one for each of its containers. Pure.

use super::node::{NodeLook, Traffic};
use crate::facts::ContainerFacts;
use crate::text::{Table, bytes, count};
use crate::usage::{PodUsage, Usage, Waited, percent};
use clap::ValueEnum;
use std::cmp::Reverse;

const TITLES: [&str; 15] = [
    "NAME",
    "CPU",
    "REQUEST",
    "LIMIT",
    "THROTTLED",
    "MEMORY",
    "LIMIT",
    "WAITS CPU/MEM/IO",
    "PIDS",
    "R",
    "D",
    "Z",
    "RESTARTS",
    "RECEIVES",
    "SENDS",
];

/// For what is not known or not limited.
const NOTHING: &str = "-";

/// Which pods come first: those that use or suffer most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    Cpu,
    Memory,
    /// Throttled by its quota.
    Throttled,
    /// Waits for a processor, memory or disks.
    Waits,
    Pids,
    /// In D state.
    Blocked,
    Restarts,
    /// Bytes received and sent.
    Network,
    /// By name, the first of the alphabet first.
    Alphabet,
}

impl Order {
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A pod with what it used.
struct PodRow<'a> {
    name: String,
    usage: PodUsage<'a>,
    rates: Option<Traffic>,
}

/// The whole table with a line above it, and what holds pods back below.
pub(super) fn text(before: &NodeLook, after: &NodeLook, order: Order) -> String {
    let mut pods: Vec<PodRow<'_>> = after
        .pods
        .iter()
        .map(|(id, look)| {
            let metadata = &look.facts.config.metadata;
            PodRow {
                name: format!("{}/{}", metadata.namespace, metadata.name),
                usage: look.since(before.pods.get(id).unwrap_or(look)),
                rates: after.rates_since(before, id),
            }
        })
        .collect();
    // Those that are equal stay where they are from one table to the next.
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    pods.sort_by_key(|pod| Reverse(pod.rank(order)));
    let mut text = format!("{}\n\n", heading(&pods, order));
    text.push_str(&table(&pods).render(0));
    text.push_str(&held_back(&pods));
    text
}

fn heading(pods: &[PodRow<'_>], order: Order) -> String {
    let containers = pods.iter().map(|pod| pod.usage.containers.len()).sum();
    let cpus: f64 = pods.iter().filter_map(|pod| pod.usage.pod.cpus).sum();
    let memory = pods.iter().filter_map(|pod| pod.usage.pod.memory_bytes);
    let load: usize = pods.iter().map(|pod| load(&pod.usage.pod)).sum();
    format!(
        "{}, {}: {cpus:.2} cpu, {} of memory, load {load} (tasks in R or D); by {}",
        count(pods.len(), "pod"),
        count(containers, "container"),
        bytes(memory.sum()),
        order.name()
    )
}

/// What counts for the host's load average.
fn load(usage: &Usage) -> usize {
    usage.tasks.running + usage.tasks.blocked()
}

fn table(pods: &[PodRow<'_>]) -> Table {
    let mut table = Table::titled(&TITLES);
    for pod in pods {
        table.row(cells(
            pod.name.clone(),
            &pod.usage.pod,
            pod.usage.restarts(),
            Some(pod.rates),
        ));
        for (facts, usage) in &pod.usage.containers {
            let name = format!("  {}", facts.name);
            let restarts = facts.config.metadata.attempt;
            table.row(cells(name, usage, restarts, None));
        }
    }
    table
}

/// `rates` is None for containers: the network is the pod's.
fn cells(
    name: String,
    usage: &Usage,
    restarts: u32,
    rates: Option<Option<Traffic>>,
) -> [String; 15] {
    let rate = |of: fn(&Traffic) -> u64| match rates {
        None => String::new(),
        Some(rates) => or_nothing(rates.as_ref().map(of), |rate| format!("{}/s", bytes(rate))),
    };
    let cpus = |number: f64| format!("{number:.2}");
    let waits = |waited: Waited| {
        let shares = [waited.cpu, waited.memory, waited.io];
        shares
            .map(|share| format!("{:.0}", share * 100.0))
            .join("/")
    };
    [
        name,
        or_nothing(usage.cpus, cpus),
        or_nothing(usage.cpus_requested, cpus),
        or_nothing(usage.cpus_limit, cpus),
        or_nothing(usage.throttled, percent),
        or_nothing(usage.memory_bytes, bytes),
        or_nothing(usage.memory_limit_bytes, bytes),
        or_nothing(usage.waited, waits),
        or_nothing(usage.pids, |pids| match usage.pids_max {
            Some(max) => format!("{pids}/{max}"),
            None => pids.to_string(),
        }),
        usage.tasks.running.to_string(),
        usage.tasks.blocked().to_string(),
        usage.tasks.zombies.to_string(),
        restarts.to_string(),
        rate(|rates| rates.received),
        rate(|rates| rates.sent),
    ]
}

fn or_nothing<T>(figure: Option<T>, shown: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| NOTHING.to_owned(), shown)
}

fn held_back(pods: &[PodRow<'_>]) -> String {
    let mut table = Table::default();
    for pod in pods {
        for (container, reason) in pod.usage.reasons() {
            table.row([place(&pod.name, container), reason.to_string()]);
        }
    }
    match table.render(0) {
        lines if lines.is_empty() => lines,
        lines => format!("\n{lines}"),
    }
}

fn place(pod: &str, container: Option<&ContainerFacts>) -> String {
    match container {
        None => pod.to_owned(),
        Some(container) => format!("{pod}/{}", container.name),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares and processors: small and not negative"
)]
fn thousandths(number: f64) -> u64 {
    (number * 1000.0) as u64
}

impl PodRow<'_> {
    /// The more, the earlier.
    fn rank(&self, order: Order) -> u64 {
        let usage = &self.usage.pod;
        let containers = self.usage.containers.iter().map(|(_, usage)| usage);
        let most = |share: fn(&Usage) -> Option<f64>| {
            let all = containers.chain([usage]).filter_map(share);
            thousandths(all.fold(0.0, f64::max))
        };
        match order {
            Order::Cpu => thousandths(usage.cpus.unwrap_or(0.0)),
            Order::Memory => usage.memory_bytes.unwrap_or(0),
            Order::Throttled => most(|usage| usage.throttled),
            Order::Waits => most(|usage| {
                let waited = usage.waited?;
                Some(waited.cpu.max(waited.memory).max(waited.io))
            }),
            Order::Pids => usage.pids.unwrap_or(0),
            Order::Blocked => u64::try_from(usage.tasks.blocked()).unwrap_or(u64::MAX),
            Order::Restarts => self.usage.restarts().into(),
            Order::Network => {
                let rates = self.rates.unwrap_or_default();
                rates.received.saturating_add(rates.sent)
            }
            Order::Alphabet => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    fn row(name: &str, usage: Usage) -> PodRow<'static> {
        PodRow {
            name: name.to_owned(),
            usage: PodUsage {
                pod: usage,
                containers: Vec::new(),
            },
            rates: None,
        }
    }

    fn busy() -> Usage {
        Usage {
            cpus: Some(0.507),
            cpus_requested: Some(0.25),
            cpus_limit: Some(0.5),
            throttled: Some(0.43),
            memory_bytes: Some(12_900_000),
            memory_limit_bytes: Some(64 << 20),
            waited: Some(Waited {
                cpu: 0.5,
                memory: 0.0,
                io: 0.031,
            }),
            pids: Some(5),
            pids_max: Some(1024),
            tasks: Tasks {
                running: 2,
                blocked: [("nfs_x".to_owned(), 3)].into(),
                zombies: 1,
            },
            ..Usage::default()
        }
    }

    #[test]
    fn a_row_has_every_figure_and_what_holds_the_pod_back() {
        let mut pod = row("default/web", busy());
        pod.rates = Some(Traffic {
            received: 2048,
            sent: 0,
        });
        let idle = row("default/idle", Usage::default());
        let pods = [pod, idle];
        let shown = table(&pods).render(0);
        let words = |line: &str| {
            line.split("   ")
                .map(|w| w.trim().to_owned())
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>()
        };
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(words(lines[0]), TITLES);
        assert_eq!(
            words(lines[1]),
            [
                "default/web",
                "0.51",
                "0.25",
                "0.50",
                "43 %",
                "12.3 MiB",
                "64 MiB",
                "50/0/3",
                "5/1024",
                "2",
                "3",
                "1",
                "0",
                "2 KiB/s",
                "0 B/s"
            ]
        );
        assert_eq!(words(lines[2])[1..9], ["-"; 8]);
        assert_eq!(
            held_back(&pods),
            "\ndefault/web   throttled 43 % of periods: quota 0.5 cpu\n"
        );
        assert!(
            heading(&pods, Order::Cpu)
                .starts_with("2 pods, 0 containers: 0.51 cpu, 12.3 MiB of memory, load 5"),
            "{}",
            heading(&pods, Order::Cpu)
        );
    }

    #[test]
    fn each_order_puts_who_has_more_first() {
        for order in Order::value_variants() {
            let (more, less) = (row("a", busy()), row("b", Usage::default()));
            let (more, less) = (more.rank(*order), less.rank(*order));
            match order {
                Order::Restarts | Order::Network | Order::Alphabet => assert_eq!(more, less),
                _ => assert!(more > less, "{order:?}"),
            }
        }
    }
}
