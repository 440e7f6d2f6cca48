//! Records of releases that there have been, which every later one reads. The files in `fixtures/`
//! have every field that there was, in every form that it had; they are added to and never changed.

use super::*;
use serde_json::Value;

/// Reads a record and writes it again: nothing of what it says is lost or said otherwise.
fn assert_kept<T: DeserializeOwned + Serialize>(name: &str, text: &str) -> T {
    let record: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let fixture: Value = serde_json::from_str(text).unwrap();
    let written = serde_json::to_value(&record).unwrap();
    assert_holds(name, &written, &fixture);
    record
}

/// `written` has what `fixture` has; what was added later it may have too.
fn assert_holds(place: &str, written: &Value, fixture: &Value) {
    match (written, fixture) {
        (Value::Object(written), Value::Object(fixture)) => {
            for (key, value) in fixture {
                let inner = written.get(key);
                let inner = inner.unwrap_or_else(|| panic!("{place}: {key} is lost"));
                assert_holds(&format!("{place}.{key}"), inner, value);
            }
        }
        (Value::Array(written), Value::Array(fixture)) => {
            assert_eq!(written.len(), fixture.len(), "{place}");
            for (inner, value) in written.iter().zip(fixture) {
                assert_holds(place, inner, value);
            }
        }
        _ => assert_eq!(written, fixture, "{place}"),
    }
}

macro_rules! fixtures {
    ($record:ty: $($name:literal),+) => {
        [$(assert_kept::<$record>($name, include_str!(concat!("fixtures/", $name, ".json")))),+]
    };
}

#[test]
fn records_of_pods_are_read_by_later_releases() {
    let states = fixtures!(PodRecord:
        "pod-on-bridge",
        "pod-on-uplink",
        "pod-by-plugins",
        "pod-before-handlers"
    )
    .map(|record| record.state);
    let expected = [
        PodState::Ready,
        PodState::Starting,
        PodState::NotReady,
        PodState::Ready,
    ];
    assert_eq!(states, expected);
}

#[test]
fn records_of_containers_are_read_by_later_releases() {
    let codes = fixtures!(ContainerRecord:
        "container-created",
        "container-running",
        "container-exited",
        "container-signalled",
        "container-oom-killed",
        "container-not-started",
        "container-lost"
    )
    .map(|record| match record.state {
        ContainerState::Exited(exited) => Some(exited.reason.exit_code()),
        _ => None,
    });
    assert_eq!(
        codes,
        [
            None,
            None,
            Some(7),
            Some(137),
            Some(137),
            Some(128),
            Some(255)
        ]
    );
}
