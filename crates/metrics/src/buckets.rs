//! Histograms and their bounds.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Names and values of a metric's labels.
pub(crate) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A histogram for each set of labels.
pub(crate) type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// The steps of a decade: Renard series R10 (ISO 3). Each is a quarter more than the one before, so a
/// quantile that is read between two bounds is at most an eighth wrong.
const STEPS: [f64; 10] = [1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0];

/// A histogram of times from 10 to the power of `first` seconds over so many decades.
fn histogram(first: i32, decades: i32) -> Histogram {
    let decades = first..first + decades;
    let last = 10f64.powi(decades.end);
    let bounds = decades.flat_map(|decade| STEPS.map(|step| step * 10f64.powi(decade)));
    Histogram::new(bounds.chain([last]).map(nearest))
}

/// Without what binary fractions add: 0.00315 and not 0.0031500000000000005.
fn nearest(bound: f64) -> f64 {
    format!("{bound:.6}")
        .parse()
        .expect("a number that was just written")
}

/// 1 ms to 10 s.
pub(crate) fn of_rpcs() -> Histogram {
    histogram(-3, 4)
}

/// 0.1 ms to 10 s.
pub(crate) fn of_phases() -> Histogram {
    histogram(-4, 5)
}

/// 0.1 s to 1000 s.
pub(crate) fn of_pulls() -> Histogram {
    histogram(-1, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn bounds_are_round_and_cover_the_range() {
        let mut registry = Registry::default();
        registry.register("t", "t", of_rpcs());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let bounds: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("t_bucket{le=\"")?.split('"').next())
            .collect();
        assert_eq!(bounds.len(), 42);
        assert_eq!(bounds[..3], ["0.001", "0.00125", "0.0016"]);
        assert_eq!(bounds[bounds.len() - 3..], ["8.0", "10.0", "+Inf"]);
    }
}
