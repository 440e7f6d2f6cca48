//! Rates of block devices.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crisp_cgroup::{Cgroup, Version};
use nix::sys::stat::{major, minor};

use crate::harness::{MIB, Scratch, Shell, apply, stats, until};

/// Of each disk.
const SIZE_MIB: u64 = 64;

/// What is written to it, in its middle: udev has read its ends to see what is there, so that version 2
/// would take a write of those for one of udev.
const WRITTEN_MIB: u64 = SIZE_MIB / 2;

/// Bytes a second. All is written in two minutes at this rate, and at once without, or after some seconds
/// where much else is done.
const RATE: u64 = MIB / 4;

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

    /// Sets how many bytes a cgroup may write each second; 0: as many as it can.
    fn limit(&self, cgroup: &Cgroup, rate: u64) {
        let (major, minor) = self.numbers();
        let rate = format!(r#"{{"major": {major}, "minor": {minor}, "rate": {rate}}}"#);
        let limit = format!(r#"{{"blockIO": {{"throttleWriteBpsDevice": [{rate}]}}}}"#);
        apply(cgroup, &limit).unwrap();
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
    slow.limit(&cgroup, RATE);
    // Version 1 knows whose a write is only when it does not wait in memory.
    let how = match scratch.hierarchies.version() {
        Version::V1 => "oflag=direct",
        Version::V2 => "conv=fsync",
    };
    let fill = |disk: &Disk| {
        let device = disk.device.display();
        let seek = SIZE_MIB / 4;
        format!("dd if=/dev/zero of={device} bs=1M count={WRITTEN_MIB} seek={seek} {how}")
    };
    let mut writer = Shell::start(&cgroup, &fill(&slow));
    until("it writes", || slow.written_by(&cgroup) > 0);
    let has_succeeded = Shell::succeeds(&cgroup, &fill(&quick));
    let (written, is_writing) = (slow.written_by(&cgroup), writer.runs());
    // Who waits for a write cannot be killed.
    slow.limit(&cgroup, 0);
    assert!(has_succeeded);
    assert!(
        is_writing && written < WRITTEN_MIB * MIB,
        "{written} {is_writing}"
    );
}
