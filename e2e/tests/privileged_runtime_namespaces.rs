//! The embedded runtime: namespaces that are joined, processes executed in a container, control
//! groups and user namespaces.

#![allow(clippy::unwrap_used, reason = "all of it runs in tests")]

mod runtime_bundle;

use crisp_e2e::cgroups_are_v2;
use runtime_bundle::Bundle;
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that holds namespaces, killed when the test is over.
struct Holder(Child);

impl Holder {
    fn new(unshare: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0.id()).into()
    }

    fn namespace(&self, name: &str) -> PathBuf {
        self.proc("ns").join(name)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn link(path: impl AsRef<Path>) -> String {
    fs::read_link(path).unwrap().display().to_string()
}

#[test]
fn privileged_namespaces_are_joined_new_or_the_hosts() {
    let holder = Holder::new(&["--net", "--ipc"]);
    let mut bundle = Bundle::sh("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
    bundle.namespace("network", Some(&holder.namespace("net")));
    bundle.namespace("ipc", Some(&holder.namespace("ipc")));
    bundle.without_namespace("pid");
    let outcome = bundle.run();
    let of: Vec<&str> = outcome.output().lines().collect();
    assert_eq!(of[0], link(holder.namespace("net")));
    assert_eq!(of[1], link(holder.namespace("ipc")));
    assert_ne!(of[2], link("/proc/self/ns/uts"));
    assert_eq!(of[3], link("/proc/self/ns/pid"));
}

#[test]
fn privileged_path_that_is_another_namespace_is_refused() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.namespace("network", Some(Path::new("/proc/self/ns/uts")));
    let outcome = bundle.run();
    assert!(
        outcome
            .error("Io")
            .starts_with("open the net namespace /proc/self/ns/uts"),
        "{outcome:?}"
    );
}

#[test]
fn privileged_sysctls_reach_the_containers_namespaces_only() {
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let mut bundle =
        Bundle::sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    bundle.spec["linux"]["sysctl"] = json!({
        "net.ipv4.ip_unprivileged_port_start": "7", "kernel.shmmni": "99",
    });
    assert_eq!(bundle.run().output(), "7\n99\n");
    let after = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(after, before);

    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "7" });
    bundle.namespace("network", Some(Path::new("/proc/self/ns/net")));
    let outcome = bundle.run();
    assert!(
        outcome
            .error("InvalidSpec")
            .contains("the host's net namespace"),
        "{outcome:?}"
    );
}

#[test]
fn privileged_exec_joins_the_container() {
    let mut bundle = Bundle::sh("touch /tmp/of-init; exec sleep 1000");
    let mut as_user =
        bundle.exec_sh("id; cat /proc/self/oom_score_adj; pwd; grep CapEff /proc/self/status");
    as_user["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [8, 9] });
    as_user["cwd"] = json!("/tmp");
    as_user["oomScoreAdj"] = json!(300);
    let processes = [
        bundle.exec_sh("while test ! -e /tmp/of-init; do sleep 0.02; done; hostname; ps | grep -c '[s]leep 1000'; ls -l /proc/self/fd 2> /dev/null | grep -c ' -> '"),
        as_user,
    ];
    let outcomes = bundle.run_exec(&processes);
    assert_eq!(outcomes[0].output(), "pod\n1\n3\n");
    assert_eq!(
        outcomes[1].output(),
        "uid=7 gid=8 groups=8,9\n300\n/tmp\nCapEff:\t0000000000000000\n"
    );
}

#[test]
fn privileged_exec_of_what_cannot_run_leaves_the_container_alone() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let mut missing = bundle.exec_sh("");
    missing["args"] = json!(["/bin/nope"]);
    let mut misplaced = bundle.exec_sh("true");
    misplaced["cwd"] = json!("/nowhere");
    let mut terminal = bundle.exec_sh("tty; stty size");
    terminal["terminal"] = json!(true);
    let processes = [missing, misplaced, bundle.exec_sh("echo alive"), terminal];
    let outcomes = bundle.run_exec(&processes);
    assert_eq!(
        outcomes[0].error("NotExecutable"),
        "exec /bin/nope: no such file or directory"
    );
    assert_eq!(
        outcomes[1].error("NotExecutable"),
        "change to working directory /nowhere: no such file or directory"
    );
    assert_eq!(outcomes[2].output(), "alive\n");
    assert_eq!(outcomes[3].stdout, "/dev/pts/0\r\n43 132\r\n");
}

/// Directories in every hierarchy, removed when the test is over.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn new() -> Self {
        let name = format!("crisp-e2e-runtime-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let roots = match cgroups_are_v2() {
            true => vec![root.to_owned()],
            false => ["pids", "freezer", "cpu"].map(|h| root.join(h)).to_vec(),
        };
        let dirs: Vec<PathBuf> = roots.iter().map(|root| root.join(&name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        Self(dirs)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in &self.0 {
            fs::remove_dir(dir).unwrap();
        }
    }
}

#[test]
fn privileged_process_joins_its_cgroups_and_sees_them_read_only() {
    let cgroups = Cgroups::new();
    let name = cgroups.0[0]
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.job["cgroups"] = json!(cgroups.0);
    let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup/* | grep -c cgroup.procs; \
                  mkdir /sys/fs/cgroup/x; mkdir /sys/fs/cgroup/freezer/x";
    let processes = [bundle.exec_sh(script)];
    let outcome = bundle.run_exec(&processes).remove(0);
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_ne!(lines.pop(), Some("0"), "{outcome:?}");
    let joined = lines.iter().filter(|line| line.ends_with(&name)).count();
    assert_eq!(joined, cgroups.0.len(), "{outcome:?}");
    // On version 2 there is no directory for the freezer.
    let refused = outcome.stderr.matches("Read-only file system").count();
    assert_eq!(refused, cgroups.0.len().min(2), "{outcome:?}");
}

/// Gives the container a user namespace, and a cgroup namespace: the one that mounts the file system of
/// version 2 must own that.
fn in_user_namespace(bundle: &mut Bundle, path: Option<&Path>) {
    bundle.namespace("user", path);
    bundle.namespace("cgroup", None);
    bundle.spec["linux"]["uidMappings"] = map();
    bundle.spec["linux"]["gidMappings"] = map();
}

fn map() -> serde_json::Value {
    json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }])
}

#[test]
fn privileged_user_namespace_maps_root_and_its_files() {
    let mut bundle = Bundle::sh(
        "id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /etc/made; stat -c %u /etc/made; \
         stat -c '%t,%T' /dev/null; echo x > /dev/null; echo hello > /dev/stdout",
    );
    in_user_namespace(&mut bundle, None);
    let outcome = bundle.run();
    let lines: Vec<&str> = outcome.output().lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "200000", "65536"]
    );
    assert_eq!(lines[2..], ["0", "0", "1,3", "hello"]);
    let made = fs::metadata(bundle.path("upper/etc/made")).unwrap();
    assert_eq!(made.uid(), 200_000);
}

#[test]
fn privileged_user_namespace_is_joined_and_executed_in() {
    let holder = Holder::new(&["--user", "--net", "--ipc", "--uts"]);
    for file in ["uid_map", "gid_map"] {
        fs::write(holder.proc(file), "0 200000 65536").unwrap();
    }
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    in_user_namespace(&mut bundle, Some(&holder.namespace("user")));
    for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        bundle.namespace(kind, Some(&holder.namespace(name)));
    }
    bundle.bind(bundle.path("volume"), "/data", &["rbind", "idmap"]);
    let mut as_user =
        bundle.exec_sh("id -u; echo hello > /dev/stdout; readlink /proc/self/ns/user");
    as_user["user"] = json!({ "uid": 1000, "gid": 1000 });
    let mut terminal = bundle.exec_sh("tty");
    terminal["terminal"] = json!(true);
    let processes = [
        as_user,
        bundle.exec_sh("touch /data/f && stat -c %u /data/f /data"),
        terminal,
    ];
    let outcomes = bundle.run_exec(&processes);
    assert_eq!(
        outcomes[0].output(),
        format!("1000\nhello\n{}\n", link(holder.namespace("user")))
    );
    assert_eq!(outcomes[1].output(), "0\n0\n");
    assert_eq!(outcomes[2].stdout, "/dev/pts/0\r\n");
}

#[test]
fn privileged_user_namespace_with_the_hosts_network_sees_sys_read_only() {
    let mut bundle = Bundle::sh("ls /sys/class/net; touch /sys/fs/x 2> /dev/null || echo refused");
    in_user_namespace(&mut bundle, None);
    bundle.without_namespace("network");
    let outcome = bundle.run();
    let text = outcome.output();
    assert!(
        text.contains("lo\n") && text.ends_with("refused\n"),
        "{text}"
    );
}

#[test]
fn privileged_volume_is_mapped_by_its_own_mapping() {
    let mut bundle = Bundle::sh("stat -c '%u %g' /data; touch /data/f");
    bundle.mount(json!({
        "destination": "/data", "type": "bind", "source": bundle.path("volume"),
        "options": ["rbind", "idmap"],
        "uidMappings": [{ "containerID": 0, "hostID": 5000, "size": 10 }],
        "gidMappings": [{ "containerID": 0, "hostID": 6000, "size": 10 }],
    }));
    assert_eq!(bundle.run().stdout, "5000 6000\n");
}
