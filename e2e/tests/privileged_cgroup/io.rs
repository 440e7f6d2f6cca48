//! Rates of block devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crisp_cgroup::{Cgroup, Version};
use crisp_e2e::mount_disk;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{major, minor};

use crate::harness::{MIB, Scratch, Shell, apply, stats, until};

/// Of each disk.
const SIZE_MIB: u32 = 64;

/// What is written to it.
const WRITTEN_MIB: u64 = 32;

/// Bytes a second. All is written in two minutes at this rate, and at once without, or after some seconds
/// where much else is done.
const RATE: u64 = MIB / 4;

/// A mounted disk of its own, the content of a file. Version 2 takes what waits in memory for a write of
/// whoever was first to write to the file, or to the device itself: files are new here, devices are not.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Self {
        let name = format!("crisp-e2e-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        mount_disk(&dir, SIZE_MIB).expect("a disk is mounted");
        Self(dir)
    }

    /// Major and minor.
    fn numbers(&self) -> (u64, u64) {
        let device = fs::metadata(&self.0).unwrap().dev();
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
        // Who writes may be about to end.
        let unmounted = umount2(&self.0, MntFlags::MNT_DETACH);
        let removed = fs::remove_dir(&self.0).and(fs::remove_file(self.0.with_extension("ext4")));
        if !std::thread::panicking() {
            unmounted.expect("it is mounted");
            removed.expect("nothing is left in the directory");
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
        let file = disk.0.join("file").display().to_string();
        format!("dd if=/dev/zero of={file} bs=1M count={WRITTEN_MIB} {how}")
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
