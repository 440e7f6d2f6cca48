//! What clients see of a spec: golden cases over the whole function.

use super::*;
use crate::{ContainerSecurity, Mount as Asked, MountPropagation, UserNamespace};
use oci_spec::runtime::{Capability, LinuxIdMapping};

struct Case {
    pod: PodConfig,
    container: ContainerConfig,
    image: ImageDefaults,
    namespaces: NamespacePaths,
    image_mounts: Vec<ImageMount>,
    volumes: Vec<Volume>,
    labels: SecurityLabels,
}

impl Case {
    fn new() -> Self {
        let mut container = ContainerConfig::default();
        container.security.namespaces.pid = NamespaceMode::Container;
        Self {
            pod: PodConfig::default(),
            container,
            image: ImageDefaults {
                entrypoint: vec!["/entry".into()],
                command: vec!["cmd".into()],
                environment: vec!["PATH=/bin".into(), "A=image".into()],
                working_dir: "/work".into(),
                ..ImageDefaults::default()
            },
            namespaces: NamespacePaths {
                network: Some("/run/netns/x".into()),
                ipc: Some("/proc/7/ns/ipc".into()),
                uts: Some("/proc/7/ns/uts".into()),
                ..NamespacePaths::default()
            },
            image_mounts: Vec::new(),
            volumes: Vec::new(),
            labels: SecurityLabels::default(),
        }
    }

    fn spec(&self) -> Result<Spec, SpecError> {
        let held = [
            Capability::Chown,
            Capability::Kill,
            Capability::NetAdmin,
            Capability::SysAdmin,
        ];
        container_spec(&SpecInput {
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            user: &ResolvedUser {
                uid: 5,
                gid: 6,
                groups: vec![6, 7],
                home: "/home/u".into(),
            },
            hostname: "host",
            namespaces: &self.namespaces,
            files: &PodFiles {
                hosts: "/p/hosts".into(),
                hostname: "/p/name".into(),
                resolv_conf: "/p/resolv".into(),
            },
            cgroups_path: "/crisp/p/c",
            unified_cgroups: false,
            held_capabilities: &held.into_iter().collect(),
            devices: &[],
            image_mounts: &self.image_mounts,
            volumes: &self.volumes,
            seccomp: None,
            labels: &self.labels,
            pids_limit: Some(99),
        })
    }

    fn refused(&self) -> String {
        self.spec().unwrap_err().to_string()
    }
}

fn destinations(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().as_ref().unwrap();
    mounts
        .iter()
        .map(|m| m.destination().display().to_string())
        .collect()
}

#[test]
fn the_image_gives_what_the_configuration_leaves_open() {
    let mut case = Case::new();
    case.container.envs = vec![("A".into(), "mine".into()), ("B".into(), "b=c".into())];
    let spec = case.spec().unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_deref().unwrap(), ["/entry", "cmd"]);
    assert_eq!(process.cwd(), Path::new("/work"));
    let env = [
        "PATH=/bin",
        "HOSTNAME=host",
        "HOME=/home/u",
        "A=mine",
        "B=b=c",
    ];
    assert_eq!(process.env().as_deref().unwrap(), env);
    assert_eq!(process.user().additional_gids().as_deref().unwrap(), [6, 7]);
    assert!(process.rlimits().is_none());
    assert!(spec.hostname().is_none());
}

#[test]
fn a_command_replaces_entrypoint_and_arguments() {
    let mut case = Case::new();
    case.container.args = vec!["x".into()];
    let args = |case: &Case| arguments(&case.container, &case.image).unwrap();
    assert_eq!(args(&case), ["/entry", "x"]);
    case.container.command = vec!["sh".into()];
    assert_eq!(args(&case), ["sh", "x"]);
    case.container.args.clear();
    assert_eq!(args(&case), ["sh"]);
    case.container.command.clear();
    case.image = ImageDefaults::default();
    assert!(matches!(case.spec(), Err(SpecError::NoCommand)));
}

#[test]
fn capabilities_are_added_and_dropped_by_any_spelling() {
    let set = |add: &[&str], drop: &[&str]| {
        let mut case = Case::new();
        case.container.security.add_capabilities = add.iter().map(|s| (*s).into()).collect();
        case.container.security.drop_capabilities = drop.iter().map(|s| (*s).into()).collect();
        let spec = case.spec().unwrap();
        let caps = spec
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        assert!(caps.inheritable().as_ref().unwrap().is_empty());
        caps.effective().clone().unwrap()
    };
    use Capability::{Chown, Kill, NetAdmin, SysAdmin};
    assert_eq!(set(&[], &[]), [Chown, Kill].into());
    assert_eq!(set(&["net_admin"], &["CAP_KILL"]), [Chown, NetAdmin].into());
    assert_eq!(
        set(&["ALL"], &["SYS_ADMIN"]),
        [Chown, Kill, NetAdmin].into()
    );
    assert_eq!(set(&["CAP_SYS_ADMIN"], &["ALL"]), [SysAdmin].into());
}

#[test]
fn a_capability_that_is_unknown_or_not_held_is_refused_by_name() {
    let mut case = Case::new();
    case.container.security.add_capabilities = vec!["SYS_TIME".into()];
    assert!(case.refused().contains("SYS_TIME"), "{}", case.refused());
    case.container.security.add_capabilities = vec!["FLY".into()];
    assert!(case.refused().contains("\"FLY\""));
}

#[test]
fn a_mount_asked_for_replaces_the_default_one() {
    let mut case = Case::new();
    let ask = |host: &str, container: &str| Asked {
        host_path: host.into(),
        container_path: container.into(),
        ..Asked::default()
    };
    case.container.mounts = vec![
        ask("/v/deep", "/data/deep"),
        ask("/v", "/data/"),
        ask("/h", "/etc/hosts"),
    ];
    let spec = case.spec().unwrap();
    let all = destinations(&spec);
    assert_eq!(all.iter().filter(|d| *d == "/etc/hosts").count(), 1);
    let data = all.iter().position(|d| d == "/data").unwrap();
    assert!(data < all.iter().position(|d| d == "/data/deep").unwrap());
}

#[test]
fn bad_mounts_are_refused_by_field() {
    for (host, container, word) in [
        ("/v", "/a/../b", ".."),
        ("/v", "/", "root"),
        ("v", "/a", "host_path"),
    ] {
        let mut case = Case::new();
        case.container.mounts = vec![Asked {
            host_path: host.into(),
            container_path: container.into(),
            ..Asked::default()
        }];
        assert!(case.refused().contains(word), "{}", case.refused());
    }
    let mut case = Case::new();
    case.container.mounts = vec![Asked {
        host_path: "/v".into(),
        container_path: "/v".into(),
        readonly: true,
        recursive_read_only: true,
        propagation: MountPropagation::HostToContainer,
        ..Asked::default()
    }];
    assert!(case.refused().contains("recursive_read_only"));
}

#[test]
fn privileged_needs_a_privileged_pod_and_lifts_what_confines() {
    let mut case = Case::new();
    case.container.security = ContainerSecurity {
        privileged: true,
        masked_paths: vec!["/proc/kcore".into()],
        ..case.container.security
    };
    assert!(case.refused().contains("privileged"));
    case.pod.security.privileged = true;
    let spec = case.spec().unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.masked_paths().is_none());
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert!(rules.len() == 1 && rules[0].allow());
}

#[test]
fn namespaces_are_joined_made_or_left_as_asked() {
    let mut case = Case::new();
    let kinds = |case: &Case| -> Vec<(LinuxNamespaceType, bool)> {
        let spec = case.spec().unwrap();
        let all = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        all.iter().map(|n| (n.typ(), n.path().is_some())).collect()
    };
    let all = kinds(&case);
    assert!(all.contains(&(LinuxNamespaceType::Pid, false)));
    assert!(all.contains(&(LinuxNamespaceType::Network, true)));
    case.container.security.namespaces.pid = NamespaceMode::Node;
    assert!(
        !kinds(&case)
            .iter()
            .any(|(kind, _)| *kind == LinuxNamespaceType::Pid)
    );
    case.container.security.namespaces.pid = NamespaceMode::Pod;
    assert!(case.refused().contains("namespace_options.pid"));
    case.namespaces.pid = Some("/proc/7/ns/pid".into());
    assert!(kinds(&case).contains(&(LinuxNamespaceType::Pid, true)));
}

#[test]
fn limits_become_oci_resources_and_updates_keep_the_rest() {
    let first = crate::Resources {
        cpu_shares: Some(512),
        memory_limit_bytes: Some(1 << 20),
        ..Default::default()
    };
    let update = crate::Resources {
        cpu_quota_us: Some(50_000),
        ..Default::default()
    };
    let merged = merge(&first, &update);
    let resources = linux_resources(&merged);
    let cpu = resources.cpu().as_ref().unwrap();
    assert_eq!((cpu.shares(), cpu.quota()), (Some(512), Some(50_000)));
    let memory = resources.memory().as_ref().unwrap();
    assert_eq!(
        (memory.limit(), memory.swap()),
        (Some(1 << 20), Some(1 << 20))
    );
    assert!(
        linux_resources(&crate::Resources::default())
            .cpu()
            .is_none()
    );
}

fn image_mount(container_path: &str, places: &[&str]) -> ImageMount {
    ImageMount {
        container_path: container_path.into(),
        places: places.iter().map(PathBuf::from).collect(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
    }
}

fn mount_at<'a>(spec: &'a Spec, path: &str) -> &'a oci_spec::runtime::Mount {
    let mut mounts = spec.mounts().as_ref().unwrap().iter();
    mounts
        .find(|mount| mount.destination() == Path::new(path))
        .unwrap()
}

#[test]
fn images_are_mounted_read_only_and_as_one() {
    let mut case = Case::new();
    case.image_mounts = vec![
        image_mount("/model", &["/l/2/fs/a:b,c", r"/l/1/fs/\"]),
        image_mount("/model/file", &["/l/1/fs/file"]),
    ];
    let spec = case.spec().unwrap();
    let whole = mount_at(&spec, "/model");
    assert_eq!(whole.typ().as_deref(), Some("overlay"));
    assert_eq!(
        whole.options().as_deref().unwrap(),
        [
            "ro",
            "nosuid",
            "nodev",
            r"lowerdir=/l/2/fs/a\:b\,c:/l/1/fs/\\"
        ]
    );
    assert!(whole.uid_mappings().is_none());
    let file = mount_at(&spec, "/model/file");
    assert_eq!(file.source().as_deref(), Some(Path::new("/l/1/fs/file")));
    assert!(file.options().as_ref().unwrap().contains(&"ro".to_owned()));
    case.image_mounts = vec![image_mount("/", &["/l/1/fs"])];
    assert!(case.refused().contains("container_path"));
}

#[test]
fn owners_in_an_image_are_mapped_as_those_of_the_pod() {
    let mapping = |host_id| crate::IdMapping {
        container_id: 0,
        host_id,
        length: 65536,
    };
    let mut case = Case::new();
    case.pod.security.namespaces.user = Some(UserNamespace {
        uids: mapping(100_000),
        gids: mapping(200_000),
    });
    let own = ImageMount {
        uid_mappings: vec![mapping(300_000)],
        gid_mappings: vec![mapping(300_000)],
        ..image_mount("/own", &["/l/1/fs"])
    };
    case.image_mounts = vec![image_mount("/pods", &["/l/2/fs", "/l/1/fs"]), own];
    let spec = case.spec().unwrap();
    let host_ids = |path| {
        let first = |ids: &Option<Vec<LinuxIdMapping>>| ids.as_ref().unwrap()[0].host_id();
        let mount = mount_at(&spec, path);
        (first(mount.uid_mappings()), first(mount.gid_mappings()))
    };
    assert_eq!(host_ids("/pods"), (100_000, 200_000));
    assert_eq!(host_ids("/own"), (300_000, 300_000));
}

#[test]
fn volumes_are_writable_below_the_files_of_the_pod_and_the_mounts() {
    let volume = |path: &str| Volume {
        container_path: path.into(),
        place: Path::new("/volumes").join(path.trim_start_matches('/')),
    };
    let mut case = Case::new();
    case.container.security.readonly_rootfs = true;
    case.volumes = vec![volume("/etc/deep/er"), volume("/etc")];
    case.container.mounts = vec![Asked {
        host_path: "/srv".into(),
        container_path: "/etc/deep".into(),
        ..Asked::default()
    }];
    let spec = case.spec().unwrap();
    let all = destinations(&spec);
    let order = ["/sys", "/etc", "/etc/deep/er", "/etc/hosts", "/etc/deep"];
    let places = order.map(|path| all.iter().position(|found| found == path).unwrap());
    assert!(places.is_sorted(), "{all:?}");
    let options = mount_at(&spec, "/etc").options().as_ref().unwrap();
    assert!(options.contains(&"rw".to_owned()));
}

#[test]
fn labels_of_security_modules_are_given_as_they_were_chosen() {
    let mut case = Case::new();
    case.labels = SecurityLabels {
        apparmor_profile: Some("mine".into()),
        selinux_process: Some("u:r:t:s0:c1,c2".into()),
        selinux_files: Some("u:object_r:f:s0:c1,c2".into()),
    };
    let spec = case.spec().unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.apparmor_profile(), &case.labels.apparmor_profile);
    assert_eq!(process.selinux_label(), &case.labels.selinux_process);
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.mount_label(), &case.labels.selinux_files);
}
