//! What must not change between two builds: the names and the bytes on the wire, spelled out by
//! hand from the protobuf encoding rules.

use crate::v1::*;
use prost::Message;

#[test]
fn the_services_have_the_names_that_kubelets_call() {
    assert_eq!(
        runtime_service_server::SERVICE_NAME,
        "runtime.v1.RuntimeService"
    );
    assert_eq!(
        image_service_server::SERVICE_NAME,
        "runtime.v1.ImageService"
    );
}

#[test]
fn a_version_answer_is_four_strings() {
    let answer = VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "crisp".to_owned(),
        runtime_version: "1".to_owned(),
        runtime_api_version: "v1".to_owned(),
    };
    assert_eq!(
        answer.encode_to_vec(),
        b"\x0a\x050.1.0\x12\x05crisp\x1a\x011\x22\x02v1"
    );
}

#[test]
fn a_pod_status_keeps_its_field_numbers() {
    let status = PodSandboxStatus {
        id: "p".to_owned(),
        state: PodSandboxState::SandboxNotready.into(),
        created_at: 300,
        network: Some(PodSandboxNetworkStatus {
            ip: "::1".to_owned(),
            additional_ips: vec![PodIp { ip: "a".to_owned() }],
        }),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..PodSandboxStatus::default()
    };
    assert_eq!(
        status.encode_to_vec(),
        b"\x0a\x01p\x18\x01\x20\xac\x02\x2a\x0a\x0a\x03::1\x12\x03\x0a\x01a\x3a\x06\x0a\x01k\x12\x01v"
    );
}

#[test]
fn fields_above_15_and_new_ones_keep_their_numbers() {
    let status = ContainerStatus {
        image_id: "i".to_owned(),
        stop_signal: Signal::Sigterm.into(),
        ..ContainerStatus::default()
    };
    assert_eq!(status.encode_to_vec(), b"\x8a\x01\x01i\x98\x01\x17");

    let psi = PsiStats {
        full: None,
        some: Some(PsiData {
            total: 1000,
            avg10: 0.5,
            ..PsiData::default()
        }),
    };
    assert_eq!(
        psi.encode_to_vec(),
        b"\x12\x0c\x08\xe8\x07\x11\0\0\0\0\0\0\xe0\x3f"
    );
}

#[test]
fn what_an_older_client_does_not_know_is_skipped() {
    let newer = b"\x0a\x02v1\xfa\x07\x03new";
    assert_eq!(VersionRequest::decode(&newer[..]).unwrap().version, "v1");
}
