//! What holds for every record, whatever is in it and whatever becomes of its file.

use super::tests::{container, pod};
use super::*;
use crisp_model::{ContainerEvent, ExitReason, Running, StringMap};
use proptest::prelude::*;
use std::time::Duration;

fn times() -> impl Strategy<Value = SystemTime> {
    (0..1_u64 << 40).prop_map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

fn reasons() -> impl Strategy<Value = ExitReason> {
    prop_oneof![
        any::<i32>().prop_map(ExitReason::Code),
        (1..65).prop_map(ExitReason::Signal),
        any::<i32>().prop_map(ExitReason::OomKilled),
    ]
}

fn events() -> impl Strategy<Value = ContainerEvent> {
    let started = (any::<u32>(), times()).prop_map(|(pid, started_at)| Running { pid, started_at });
    prop_oneof![
        started.prop_map(ContainerEvent::Started),
        (times(), ".*").prop_map(|(at, message)| ContainerEvent::StartFailed { at, message }),
        (times(), reasons()).prop_map(|(at, reason)| ContainerEvent::Ended { at, reason }),
        (times(), ".*").prop_map(|(at, message)| ContainerEvent::Lost { at, message }),
    ]
}

fn maps() -> impl Strategy<Value = StringMap> {
    proptest::collection::btree_map(".*", ".*", 0..4)
}

/// Records of pods with any words in them.
fn pods() -> impl Strategy<Value = PodRecord> {
    (maps(), ".*", times(), any::<Option<u32>>()).prop_map(|(labels, name, at, pid)| {
        let mut record = pod();
        let config = Arc::make_mut(&mut record.config);
        config.metadata.name = name;
        config.labels = labels;
        record.created_at = at;
        record.pause_pid = pid;
        record
    })
}

/// Records of containers with any words in them, after any history.
fn containers() -> impl Strategy<Value = ContainerRecord> {
    let history = proptest::collection::vec(events(), 0..4);
    let words = proptest::collection::vec(".*", 0..4);
    (history, words, maps()).prop_map(|(history, command, annotations)| {
        let mut record = container(&pod());
        let config = Arc::make_mut(&mut record.config);
        config.command = command;
        config.annotations = annotations;
        for event in history {
            if let Ok(next) = record.state.apply(event) {
                record.state = next;
            }
        }
        record
    })
}

proptest! {
    #[test]
    fn whatever_is_in_a_record_is_read_again(pod in pods(), container in containers()) {
        let text = serde_json::to_vec(&pod).unwrap();
        prop_assert_eq!(serde_json::from_slice::<PodRecord>(&text).unwrap(), pod);
        let text = serde_json::to_vec(&container).unwrap();
        prop_assert_eq!(serde_json::from_slice::<ContainerRecord>(&text).unwrap(), container);
    }

    #[test]
    fn a_part_of_a_record_is_none(container in containers(), cut in any::<prop::sample::Index>()) {
        let text = serde_json::to_vec(&container).unwrap();
        let part = &text[..cut.index(text.len())];
        prop_assert!(serde_json::from_slice::<ContainerRecord>(part).is_err());
    }

    #[test]
    fn fields_of_a_later_release_are_skipped(
        container in containers(),
        name in "later_[a-z]{1,8}",
        value in ".*",
    ) {
        let mut object = serde_json::to_value(&container).unwrap();
        let fields = object.as_object_mut().unwrap();
        fields.insert(name.clone(), value.clone().into());
        let config = fields["config"].as_object_mut().unwrap();
        config.insert(name, value.into());
        prop_assert_eq!(serde_json::from_value::<ContainerRecord>(object).unwrap(), container);
    }

    #[test]
    fn bytes_of_whoever_are_no_record_and_harm_nothing(bytes: Vec<u8>, whole in pods()) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let broken = pod();
        for pod in [&whole, &broken] {
            records.write_pod(pod).unwrap();
        }
        std::fs::write(records.pod_dir(&broken.id).join("pod.json"), &bytes).unwrap();
        let found = records.read().unwrap();
        prop_assert_eq!(found, [(whole, Vec::new())]);
        prop_assert!(records.pod_dir(&broken.id).exists());
    }

    #[test]
    fn an_ended_container_stays_as_it_ended(
        container in containers(),
        later in proptest::collection::vec(events(), 1..8),
    ) {
        let ended = matches!(container.state, ContainerState::Exited(_));
        for event in later {
            let next = container.state.apply(event);
            prop_assert!(!ended || next.is_err());
            // Nothing leads back to a container that was never started.
            prop_assert!(!matches!(next, Ok(ContainerState::Created)));
        }
    }
}
