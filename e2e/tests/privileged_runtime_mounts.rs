//! The embedded runtime: what a container sees of file systems, and what it cannot reach through them.

#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

mod runtime_bundle;

use runtime_bundle::{Bundle, DRIVER, Outcome, parse};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn privileged_writes_stay_in_the_containers_layer() {
    let bundle = Bundle::sh("touch /etc/made && cat /etc/made");
    bundle.run().output();
    assert!(bundle.wrote("etc/made"));
    assert!(!bundle.path("rootfs/etc/made").exists());
}

#[test]
fn privileged_directory_is_a_root_without_a_layer() {
    let mut bundle = Bundle::sh("touch /etc/made");
    bundle.without_overlay();
    bundle.run().output();
    assert!(bundle.path("rootfs/etc/made").exists());
}

#[test]
fn privileged_nothing_of_the_host_is_mounted() {
    let bundle = Bundle::sh("cat /proc/self/mountinfo");
    let outcome = bundle.run();
    let roots: Vec<&str> = outcome
        .output()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert_eq!(roots[0], "/");
    let known = ["/", "/proc", "/dev", "/sys"];
    for root in roots {
        assert!(known.iter().any(|known| root.starts_with(known)), "{root}");
    }
    assert_eq!(outcome.stdout.matches(" - ext4 ").count(), 0, "{outcome:?}");
}

#[test]
fn privileged_readonly_root_still_has_its_mount_points_and_writable_volumes() {
    let mut bundle =
        Bundle::sh("touch /volume/deep/f; touch /etc/f; touch /dev/shm/f; ls /volume/deep");
    bundle.spec["root"]["readonly"] = json!(true);
    bundle.job["shm"] = json!(true);
    bundle.bind(bundle.path("volume"), "/volume/deep", &["rbind", "rw"]);
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "f\n");
    assert_eq!(outcome.stderr, "touch: /etc/f: Read-only file system\n");
}

#[test]
fn privileged_readonly_bind_mount_cannot_be_written_and_files_can_be_mounted() {
    let mut bundle = Bundle::sh("cat /etc/hosts; echo x > /etc/hosts; touch /data/f");
    fs::write(bundle.path("hosts"), "127.0.0.1 localhost\n").unwrap();
    bundle.bind(bundle.path("hosts"), "/etc/hosts", &["rbind", "ro"]);
    bundle.bind(bundle.path("volume"), "/data", &["rbind", "ro"]);
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "127.0.0.1 localhost\n");
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{outcome:?}"
    );
}

#[test]
fn privileged_missing_mount_source_is_named() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.bind("/no/such/source", "/data", &["rbind"]);
    assert_eq!(
        bundle.run().error("Io"),
        "open mount source /no/such/source: no such file or directory"
    );
}

#[test]
fn privileged_unknown_option_is_refused_with_the_kernels_words() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.mount(json!({
        "destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["frob=1"],
    }));
    let outcome = bundle.run();
    let message = outcome.error("Io");
    assert!(
        message.contains("frob") && message.contains("Unknown parameter"),
        "{message}"
    );
}

#[test]
fn privileged_masked_and_readonly_paths_hold() {
    let script = "cat /proc/keys; ls /sys/firmware; stat -c %t,%T /proc/keys; \
                  echo 1 > /proc/sys/kernel/msgmax; touch /sys/firmware/x";
    let outcome = Bundle::sh(script).run();
    assert_eq!(outcome.stdout, "1,3\n", "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{outcome:?}"
    );
}

#[test]
fn privileged_devices_and_links_are_those_of_every_container() {
    let mut bundle = Bundle::sh(
        "stat -c '%n %t,%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/net/tun; \
         readlink /dev/fd; readlink /dev/ptmx; stat -c '%a %u' /dev/shm; echo x > /dev/null",
    );
    bundle.job["shm"] = json!(true);
    bundle.spec["linux"]["devices"] = json!([
        { "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640 },
    ]);
    assert_eq!(
        bundle.run().output(),
        "/dev/null 1,3 666\n/dev/zero 1,5 666\n/dev/full 1,7 666\n/dev/random 1,8 666\n\
         /dev/urandom 1,9 666\n/dev/tty 5,0 666\n/dev/net/tun a,c8 640\n\
         /proc/self/fd\npts/ptmx\n1777 0\n"
    );
}

/// Whatever links an image brings, what is made for a container is made in its own root.
#[test]
fn privileged_links_of_an_image_lead_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::sh("ls /data /run/x");
    let rootfs = bundle.path("rootfs");
    symlink(outside.path(), rootfs.join("data")).unwrap();
    symlink("../../../../../../..", rootfs.join("up")).unwrap();
    symlink(
        format!("/up{}", outside.path().display()),
        rootfs.join("run"),
    )
    .unwrap();
    symlink(outside.path(), rootfs.join("srv")).unwrap();
    bundle.bind(bundle.path("volume"), "/data", &["rbind"]);
    bundle.bind(bundle.path("volume"), "/run/x", &["rbind"]);
    bundle.bind(bundle.path("hosts"), "/up/etc/hosts", &["rbind"]);
    fs::write(bundle.path("hosts"), "").unwrap();
    bundle.spec["process"]["cwd"] = json!("/srv/work");
    let outcome = bundle.run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(bundle.wrote("etc/hosts"));
}

#[test]
fn privileged_proc_and_sys_are_not_mounted_through_a_link() {
    for name in ["proc", "sys", "dev/../proc"] {
        let bundle = Bundle::new(&["true"]);
        let rootfs = bundle.path("rootfs");
        fs::create_dir(rootfs.join("elsewhere")).unwrap();
        symlink(
            "elsewhere",
            rootfs.join(Path::new(name).file_name().unwrap()),
        )
        .unwrap();
        let outcome = bundle.run();
        assert!(
            outcome.error("Io").contains("too many symbolic links"),
            "{outcome:?}"
        );
    }
}

#[test]
fn privileged_nothing_is_mounted_over_proc() {
    for target in [
        "/proc",
        "/proc/self/attr",
        "/proc/sys",
        "/link/sys",
        "/proc/keys",
    ] {
        let mut bundle = Bundle::new(&["true"]);
        symlink("/proc", bundle.path("rootfs/link")).unwrap();
        let source = match target {
            "/proc/keys" => PathBuf::from("/etc/hostname"),
            _ => bundle.path("volume"),
        };
        bundle.bind(source, target, &["rbind"]);
        let outcome = bundle.run();
        assert!(
            outcome.error("InvalidSpec").contains("over /proc"),
            "{target}: {outcome:?}"
        );
    }
    let mut bundle = Bundle::sh("cat /proc/uptime");
    fs::write(bundle.path("uptime"), "1.0 1.0\n").unwrap();
    bundle.bind(bundle.path("uptime"), "/proc/uptime", &["bind", "ro"]);
    assert_eq!(bundle.run().output(), "1.0 1.0\n");
}

/// A volume at /dev decides what is found there; it must not become the mask of what is hidden.
#[test]
fn privileged_false_null_device_is_no_mask() {
    let mut bundle = Bundle::sh("cat /proc/keys");
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    fs::write(bundle.path("volume/null"), "bait").unwrap();
    bundle.bind(bundle.path("volume"), "/dev", &["rbind"]);
    let outcome = bundle.run();
    assert!(
        outcome.error("InvalidSpec").contains("not the null device"),
        "{outcome:?}"
    );
}

#[test]
fn privileged_false_terminal_multiplexer_is_refused() {
    let mut bundle = Bundle::sh("tty");
    bundle.job["terminal"] = json!(true);
    fs::write(bundle.path("volume/ptmx"), "bait").unwrap();
    bundle.bind(bundle.path("volume"), "/dev/pts", &["rbind"]);
    let outcome = bundle.run();
    assert!(
        outcome
            .error("Io")
            .contains("find a terminal at /dev/pts/ptmx"),
        "{outcome:?}"
    );
}

#[test]
fn privileged_mounts_of_a_container_stay_in_it() {
    let mut bundle =
        Bundle::sh("mount -t tmpfs none /data/inside && grep -c /data/inside /proc/mounts");
    fs::create_dir(bundle.path("volume/inside")).unwrap();
    bundle.bind(bundle.path("volume"), "/data", &["rbind"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    assert_eq!(bundle.run().output(), "1\n");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(bundle.path("volume").to_str().unwrap()));
}

#[test]
fn privileged_slave_sees_later_mounts_of_the_host_and_private_does_not() {
    for (propagation, expected) in [("rslave", "seen\n"), ("rprivate", "")] {
        let mut bundle = Bundle::sh(
            "touch /data/ready; while test ! -e /data/go; do sleep 0.02; done; cat /data/inside/f 2> /dev/null; true",
        );
        bundle.bind(bundle.path("volume"), "/data", &["rbind", propagation]);
        let outcome = run_in_mount_namespace(
            &bundle,
            "mount -t tmpfs shared $V && mount --make-shared $V && mkdir $V/inside",
            "mount -t tmpfs inside $V/inside && echo seen > $V/inside/f",
        );
        assert_eq!(outcome.output(), expected, "{propagation}");
    }
}

#[test]
fn privileged_propagation_that_cannot_be_is_refused() {
    for propagation in ["rslave", "rshared"] {
        let mut bundle = Bundle::sh("touch /data/ready");
        bundle.bind(bundle.path("volume"), "/data", &["rbind", propagation]);
        let outcome = run_in_mount_namespace(
            &bundle,
            "mount -t tmpfs private $V && mount --make-private $V && touch $V/ready",
            "true",
        );
        assert!(
            outcome.error("InvalidSpec").contains("is not shared"),
            "{outcome:?}"
        );
    }
}

#[test]
fn privileged_recursive_readonly_goes_for_mounts_below() {
    for (option, expected) in [("ro", "written\n"), ("rro", "")] {
        let mut bundle = Bundle::sh(
            "touch /data/ready; while test ! -e /data/go; do sleep 0.02; done; \
             echo written > /data/below/f 2> /dev/null && cat /data/below/f; true",
        );
        bundle.bind(
            bundle.path("volume"),
            "/data",
            &["rbind", "rprivate", option],
        );
        let outcome = run_in_mount_namespace(
            &bundle,
            "mkdir $V/below && mount -t tmpfs below $V/below && touch $V/ready $V/go",
            "true",
        );
        assert_eq!(outcome.stdout, expected, "{option}: {outcome:?}");
    }
}

#[test]
fn privileged_shm_that_is_mounted_already_is_shared() {
    let mut bundle = Bundle::sh("touch /dev/shm/f; ls /dev/shm");
    bundle.job["shm"] = json!(bundle.path("volume"));
    let outcome = run_in_mount_namespace(
        &bundle,
        "mount -t tmpfs shm $V && touch $V/ready",
        "while test ! -e $V/f; do sleep 0.02; done",
    );
    assert!(outcome.output().starts_with("f\n"), "{outcome:?}");
}

/// Runs a container in a mount namespace of the host's side, where `before` has prepared the volume
/// `$V`; `during` is run once the container has made the file `ready` in it, and the file `go` tells
/// the container that it has.
fn run_in_mount_namespace(bundle: &Bundle, before: &str, during: &str) -> Outcome {
    let script = format!(
        "set -e; {before}; \"$D\" \"$J\" & while test ! -e $V/ready; do sleep 0.02; done; \
         {during}; touch $V/go; wait"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .env("D", DRIVER)
        .env("J", bundle.write())
        .env("V", bundle.path("volume"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    parse(&output.stdout).remove(0)
}

#[test]
fn privileged_image_that_holds_a_file_in_place_of_dev_nodes_keeps_its_own_loss() {
    let mut bundle = Bundle::sh("cat /dev/null");
    // Without a tmpfs at /dev the nodes are made in the container's layer.
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let dev = bundle.path("rootfs/dev");
    fs::create_dir(&dev).unwrap();
    fs::write(dev.join("null"), "bait").unwrap();
    fs::set_permissions(dev.join("null"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(bundle.run().error("Io").contains("make device /dev/null"));
}
