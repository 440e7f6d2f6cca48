//! Rates of block devices.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crisp_cgroup::{Cgroup, Version};
use nix::sys::stat::{major, minor};

use crate::harness::{MIB, Scratch, Shell, apply, stats, until};

/// What each of two writes, to a half of the disk.
const WRITTEN_MIB: u64 = 32;

/// A block device of its own, the content of a file.
struct Disk {
    device: PathBuf,
    file: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let name = format!("crisp-e2e-disk-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let sparse = File::create(&file).expect("files can be made");
        sparse.set_len(2 * WRITTEN_MIB * MIB).unwrap();
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
fn privileged_writes_are_held_to_their_rate_and_those_of_others_are_not() {
    let scratch = Scratch::on_this_host();
    let disk = Disk::new();
    let (held, free) = (scratch.child("held"), scratch.child("free"));
    let (major, minor) = disk.numbers();
    let rate = format!(r#"{{"major": {major}, "minor": {minor}, "rate": {MIB}}}"#);
    let limit = format!(r#"{{"blockIO": {{"throttleWriteBpsDevice": [{rate}]}}}}"#);
    apply(&held, &limit).unwrap();
    // Version 1 knows whose a write is only when it does not wait in memory.
    let how = match scratch.hierarchies.version() {
        Version::V1 => "oflag=direct",
        Version::V2 => "conv=fsync",
    };
    let write = |from_mib| {
        let device = disk.device.display();
        format!("dd if=/dev/zero of={device} bs=1M count={WRITTEN_MIB} seek={from_mib} {how}")
    };
    let mut writer = Shell::start(&held, &write(0));
    until("it writes", || disk.written_by(&held) > 0);
    assert!(Shell::succeeds(&free, &write(WRITTEN_MIB)));
    assert!(disk.written_by(&held) < WRITTEN_MIB * MIB);
    assert!(writer.runs(), "it has written all as well");
}
