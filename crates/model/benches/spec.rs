//! From the configuration of a container to its OCI spec.

use crisp_model::spec::{
    CapabilitySet, ImageDefaults, NamespacePaths, PodFiles, SecurityLabels, SpecInput,
    container_spec,
};
use crisp_model::{ContainerConfig, NamespaceMode, PodConfig, ResolvedUser};

fn main() {
    divan::main();
}

#[divan::bench]
fn usual_container(bencher: divan::Bencher<'_, '_>) {
    let pod = PodConfig::default();
    let mut container = ContainerConfig::default();
    container.security.namespaces.pid = NamespaceMode::Container;
    let image = ImageDefaults {
        entrypoint: vec!["/entry".into()],
        environment: vec!["PATH=/bin".into(), "HOME=/".into()],
        ..ImageDefaults::default()
    };
    let namespaces = NamespacePaths {
        network: Some("/run/netns/crisp-0".into()),
        ipc: Some("/proc/7/ns/ipc".into()),
        uts: Some("/proc/7/ns/uts".into()),
        ..NamespacePaths::default()
    };
    let files = PodFiles {
        hosts: "/run/crisp/pods/0/hosts".into(),
        hostname: "/run/crisp/pods/0/hostname".into(),
        resolv_conf: "/run/crisp/pods/0/resolv.conf".into(),
    };
    let input = SpecInput {
        pod: &pod,
        container: &container,
        image: &image,
        user: &ResolvedUser::default(),
        hostname: "host",
        namespaces: &namespaces,
        files: &files,
        cgroups_path: "/crisp/pod/container",
        unified_cgroups: true,
        held_capabilities: &CapabilitySet::default(),
        devices: &[],
        image_mounts: &[],
        volumes: &[],
        seccomp: None,
        labels: &SecurityLabels::default(),
        pids_limit: None,
    };
    bencher.bench_local(|| container_spec(&input).expect("it is consistent"));
}
