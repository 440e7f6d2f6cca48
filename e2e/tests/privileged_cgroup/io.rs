//! Rates of block devices.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crisp_cgroup::{Cgroup, Version};
use nix::sys::stat::{major, minor};

use crate::harness::{MIB, Scratch, Shell, apply, stats, until};

/// Of each disk.
const SIZE_MIB: u64 = 32;

/// A block device of its own, the content of a file.
struct Disk {
    device: PathBuf,
    file: PathBuf,
}

impl Disk {
    fn new(name: &str) -> Self {
        let name = format!("crisp-e2e-{name}-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let sparse = File::create(&file).expect("files can be made");
        sparse.set_len(SIZE_MIB * MIB).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .expect("losetup starts");
        assert!(output.status.success(), "{output:?}");
        let device = String::from_utf8(output.stdout).unwrap();
        Self {
            device: Path::new(device.trim_end()).to_owned(),
            file,
        }
    }

    /// Major and minor.
    fn numbers(&self) -> (u64, u64) {
        let device = fs::metadata(&self.device).unwrap().rdev();
        (major(device), minor(device))
    }

    fn written_by(&self, cgroup: &Cgroup) -> u64 {
        let (major, minor) = self.numbers();
        let devices = stats(cgroup).io.expect("figures of devices");
        let mut devices = devices.into_iter();
        let own = devices
            .find(|device| (u64::from(device.major), u64::from(device.minor)) == (major, minor));
        own.map_or(0, |device| device.write_bytes)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
        let removed = fs::remove_file(&self.file);
        if !std::thread::panicking() {
            assert!(detached.expect("losetup starts").success());
            removed.expect("the file is there");
        }
    }
}

#[test]
fn privileged_writes_are_held_to_the_rate_of_their_device() {
    let scratch = Scratch::on_this_host();
    let cgroup = scratch.child("container");
    let (slow, quick) = (Disk::new("slow"), Disk::new("quick"));
    let (major, minor) = slow.numbers();
    let rate = format!(r#"{{"major": {major}, "minor": {minor}, "rate": {MIB}}}"#);
    let limit = format!(r#"{{"blockIO": {{"throttleWriteBpsDevice": [{rate}]}}}}"#);
    apply(&cgroup, &limit).unwrap();
    // Version 1 knows whose a write is only when it does not wait in memory.
    let how = match scratch.hierarchies.version() {
        Version::V1 => "oflag=direct",
        Version::V2 => "conv=fsync",
    };
    let fill = |disk: &Disk| {
        let device = disk.device.display();
        format!("dd if=/dev/zero of={device} bs=1M count={SIZE_MIB} {how}")
    };
    let mut writer = Shell::start(&cgroup, &fill(&slow));
    until("it writes", || slow.written_by(&cgroup) > 0);
    assert!(Shell::succeeds(&cgroup, &fill(&quick)));
    assert!(slow.written_by(&cgroup) < SIZE_MIB * MIB);
    assert!(writer.runs(), "it has written all as well");
}
