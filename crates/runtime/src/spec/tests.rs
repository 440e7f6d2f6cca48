//! Specs as they come, and what is made of them.

use super::*;
use crate::error::StartError;
use crisp_sys::mount::{Attributes, Recursion};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["true"] },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "uts" }] },
    })
}

/// The plan for a spec with the value at a JSON pointer replaced.
fn plan(pointer: &str, value: Value) -> Result<Container, StartError> {
    let mut spec = base();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[key] = value;
    Container::from_spec(&serde_json::from_value(spec).unwrap())
}

fn refusal(pointer: &str, value: Value) -> String {
    match plan(pointer, value) {
        Err(StartError::InvalidSpec(text)) => text,
        other => panic!("{pointer} was taken: {other:?}"),
    }
}

fn mount(options: &[&str]) -> MountPlan {
    let mount = json!([{
        "destination": "/data", "type": "bind", "source": "/srv", "options": options,
    }]);
    plan("/mounts", mount).unwrap().mounts.remove(0)
}

#[test]
fn a_spec_gets_what_every_container_has() {
    let plan = plan("/hostname", json!("pod")).unwrap();
    assert_eq!(plan.hostname.as_deref(), Some("pod"));
    let devices: Vec<_> = plan
        .devices
        .iter()
        .map(|d| d.path.to_str().unwrap())
        .collect();
    assert_eq!(
        devices,
        [
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/dev/tty"
        ]
    );
    let process = plan.process;
    assert_eq!(process.umask.bits(), 0o022);
    assert_eq!(process.capabilities, CapabilityPlan::default());
    assert_eq!(process.search_path.len(), 6);
}

#[test]
fn namespaces_are_joined_by_path_and_otherwise_new() {
    let plan = plan(
        "/linux/namespaces",
        json!([
            { "type": "mount" }, { "type": "pid", "path": "" },
            { "type": "network", "path": "/run/netns/x" },
        ]),
    )
    .unwrap();
    let all = [Kind::Mount, Kind::Pid, Kind::Network];
    assert_eq!(
        plan.namespaces.new_among(&all),
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID
    );
    assert_eq!(
        plan.namespaces.joined(Kind::Network),
        Some(Path::new("/run/netns/x"))
    );
    assert!(!plan.namespaces.has(Kind::Ipc));
}

#[test]
fn what_would_reach_the_host_is_refused() {
    let path = json!([{ "type": "mount", "path": "/proc/1/ns/mnt" }]);
    assert!(refusal("/linux/namespaces", path).contains("new mount namespace"));
    let twice = json!([{ "type": "mount" }, { "type": "mount" }]);
    assert!(refusal("/linux/namespaces", twice).contains("twice"));
    let net = json!({ "net.ipv4.ip_forward": "1" });
    assert!(refusal("/linux/sysctl", net).contains("would change the host's"));
    let panic = json!({ "kernel.panic": "1" });
    assert!(refusal("/linux/sysctl", panic).contains("belongs to no namespace"));
    let escape = json!({ "net/../kernel/panic": "1" });
    assert!(refusal("/linux/sysctl", escape).contains("no name"));
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let rdt = json!({ "closID": "x" });
    assert!(refusal("/linux/intelRdt", rdt).contains("intelRdt"));
}

#[test]
fn hooks_keep_their_order_and_have_a_name_and_a_time() {
    let hooks = json!({
        "poststop": [{ "path": "/bin/last", "timeout": 7 }],
        "createContainer": [
            { "path": "/bin/one", "args": ["me", "x"], "env": ["A=b"] },
            { "path": "/bin/two" },
        ],
    });
    let hooks = plan("/hooks", hooks).unwrap().hooks;
    let arguments: Vec<_> = hooks
        .at(Point::CreateContainer)
        .map(|hook| hook.arguments.clone())
        .collect();
    assert_eq!(
        arguments,
        [
            vec![c"me".to_owned(), c"x".to_owned()],
            vec![c"/bin/two".to_owned()]
        ]
    );
    let last = hooks.at(Point::Poststop).next().unwrap();
    assert_eq!(last.timeout.as_secs(), 7);
    assert!(!hooks.any_at(&[Point::Prestart, Point::Poststart]));
    for wrong in [
        json!({ "path": "bin/relative" }),
        json!({ "path": "/bin/x", "timeout": 0 }),
        json!({ "path": "/bin/x", "env": ["A=\u{0}"] }),
    ] {
        let refused = refusal("/hooks", json!({ "poststart": [wrong] }));
        assert!(refused.contains("hooks.poststart"), "{refused}");
    }
}

#[test]
fn an_id_that_setresuid_takes_for_no_change_is_refused() {
    for id in [u32::MAX, 1 << 31] {
        refusal("/process/user", json!({ "uid": id, "gid": 0 }));
        refusal("/process/user", json!({ "uid": 0, "gid": id }));
        let groups = json!({ "uid": 1, "gid": 1, "additionalGids": [id] });
        refusal("/process/user", groups);
    }
}

#[test]
fn paths_are_absolute_and_plain() {
    refusal("/process/cwd", json!("../host"));
    refusal("/process/cwd", json!("/a/../../host"));
    refusal("/linux/maskedPaths", json!(["proc/kcore"]));
    refusal(
        "/mounts",
        json!([{ "destination": "/../x", "type": "tmpfs" }]),
    );
}

#[test]
fn a_zero_byte_or_nothing_to_execute_is_refused() {
    refusal("/process/args", json!([]));
    refusal("/process/args", json!([""]));
    refusal("/process/args", json!(["a\0b"]));
    refusal("/process/env", json!(["A=\0"]));
}

#[test]
fn relative_directories_in_path_are_not_searched() {
    let env = json!(["A=1", "PATH=/a:.::b:/c"]);
    let path = plan("/process/env", env).unwrap().process.search_path;
    assert_eq!(path, [Path::new("/a"), Path::new("/c")]);
}

#[test]
fn mount_options_say_what_is_set_and_what_is_cleared() {
    let options = mount(&["bind", "ro", "noexec", "exec", "rro"]).options;
    assert_eq!(options.set, Attributes::READ_ONLY);
    assert_eq!(options.clear, Attributes::NO_EXEC);
    assert_eq!(options.set_recursively, Attributes::READ_ONLY);
    // Set here, and cleared by the last word.
    let options = mount(&["bind", "ro", "rw"]).options;
    assert_eq!(
        (options.set, options.clear),
        (Attributes::NONE, Attributes::READ_ONLY)
    );
}

#[test]
fn bind_mounts_are_private_unless_something_else_was_asked_for() {
    let propagation = |options: &[&str]| mount(options).options.propagation;
    let all = Recursion::WholeTree;
    assert_eq!(propagation(&["rbind"]), Some((Propagation::Private, all)));
    assert_eq!(
        propagation(&["rbind", "rslave"]),
        Some((Propagation::Slave, all))
    );
    assert_eq!(
        propagation(&["rbind", "shared"]),
        Some((Propagation::Shared, Recursion::This))
    );
}

#[test]
fn options_go_to_the_file_system_or_are_refused() {
    let tmpfs = json!([{
        "destination": "/run", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k", "noswap"],
    }]);
    let plan = plan("/mounts", tmpfs).unwrap();
    let mount = &plan.mounts[0];
    assert!(mount.options.set.contains(Attributes::STRICT_ATIME));
    let value = |key: &str, value: &str| FsOption::Value(key.into(), value.into());
    assert_eq!(
        mount.source,
        Source::FileSystem {
            fs_type: "tmpfs".into(),
            source: "tmpfs".into(),
            data: vec![
                value("mode", "755"),
                value("size", "65536k"),
                FsOption::Flag("noswap".into())
            ],
        }
    );
    let bind = json!([{
        "destination": "/x", "type": "bind", "source": "/y", "options": ["size=1"],
    }]);
    assert!(refusal("/mounts", bind).contains("\"size\" is no option of a bind mount"));
    let nothing = json!([{ "destination": "/x", "options": ["ro"] }]);
    assert!(refusal("/mounts", nothing).contains("neither a type"));
}

#[test]
fn an_overlay_of_lower_directories_is_made_of_the_hosts() {
    let overlay = |options: &[&str]| {
        let mount = json!([{
            "destination": "/data", "type": "overlay", "source": "overlay", "options": options,
        }]);
        plan("/mounts", mount).unwrap().mounts.remove(0)
    };
    let read_only = overlay(&["ro", r"lowerdir=/a/fs:/b\:c/\,\\"]);
    let lower_dirs = ["/a/fs", r"/b:c/,\"].map(PathBuf::from).to_vec();
    assert_eq!(read_only.source, Source::Overlay { lower_dirs });
    assert!(read_only.options.set.contains(Attributes::READ_ONLY));
    let writable = overlay(&["lowerdir=/a", "upperdir=/b", "workdir=/c"]);
    assert!(matches!(writable.source, Source::FileSystem { .. }));
}

#[test]
fn a_dev_of_the_host_keeps_its_own_nodes() {
    let dev = json!([{ "destination": "/dev", "type": "bind", "source": "/dev" }]);
    assert!(plan("/mounts", dev).unwrap().devices.is_empty());
}

#[test]
fn ids_are_found_in_the_ranges_of_a_mapping() {
    let mapping = json!([
        { "containerID": 0, "hostID": 100_000, "size": 1000 },
        { "containerID": 5000, "hostID": 1, "size": 1 },
    ]);
    let maps = plan("/linux/uidMappings", mapping).unwrap().id_maps;
    assert_eq!(maps.outside_uid(999), Some(100_999));
    assert_eq!(maps.outside_uid(1000), None);
    assert_eq!(maps.outside_uid(5000), Some(1));
    let lines = id_map_lines(&maps.uids);
    assert_eq!(lines, "0 100000 1000\n5000 1 1\n");
    let parsed: Vec<_> = lines.lines().filter_map(IdMap::parse).collect();
    assert_eq!(parsed, maps.uids);
}

#[test]
fn sysctl_names_take_dots_or_slashes() {
    let mut spec = base();
    spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "network" }]);
    spec["linux"]["sysctl"] = json!({
        "net.ipv4.conf.eth0/7.forwarding": "1",
        "net/ipv4/conf/eth0.8/forwarding": "1",
    });
    let plan = Container::from_spec(&serde_json::from_value(spec).unwrap()).unwrap();
    let paths: Vec<_> = plan
        .sysctls
        .iter()
        .map(|s| s.path.to_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "net/ipv4/conf/eth0.7/forwarding",
            "net/ipv4/conf/eth0.8/forwarding"
        ]
    );
}

#[test]
fn capabilities_have_the_kernels_numbers() {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"],
        "inheritable": ["CAP_SYS_ADMIN"],
        "ambient": ["CAP_NET_BIND_SERVICE"],
    });
    let plan = plan("/process/capabilities", sets)
        .unwrap()
        .process
        .capabilities;
    assert_eq!(plan.bounding.0, 1 | 1 << 40);
    assert_eq!(plan.ambient.0, 1 << 10);
}
