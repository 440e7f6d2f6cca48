//! What a start and an end of a container cost on the socket between daemon and shim, and on disk.

use crisp_shim_api::message::{Exit, StartContainer, request};
use crisp_shim_api::{ExitRecord, decode, encode, request};

fn main() {
    divan::main();
}

/// The filter of the default profile has some 300 instructions of 8 bytes.
fn start() -> StartContainer {
    StartContainer {
        container_id: "0123456789abcdef".repeat(4),
        bundle_dir: "/run/crisp/pods/0/bundles/0".into(),
        cgroup_dirs: vec!["/sys/fs/cgroup/crisp/pod/container".into(); 10],
        seccomp_filter: vec![7; 300 * 8],
        log_path: "/var/log/pods/default_web_0/web/0.log".into(),
        ..StartContainer::default()
    }
}

#[divan::bench]
fn start_packet(bencher: divan::Bencher<'_, '_>) {
    let packet = request(1, request::Body::StartContainer(start()));
    bencher.bench_local(|| {
        let bytes = encode(&packet).expect("it is short enough");
        decode(&bytes).expect("it is a packet")
    });
}

#[divan::bench]
fn exit_record(bencher: divan::Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let exit = Exit {
        container_id: "0123456789abcdef".repeat(4),
        ..Exit::default()
    };
    bencher.bench_local(|| {
        ExitRecord::write(dir.path(), &exit).expect("it can be written");
        ExitRecord::read(dir.path(), &exit.container_id).expect("it can be read")
    });
}
