//! Figures that are read again and again.

use std::thread;

use crisp_cgroup::{Cgroup, Error, Extent};
use crisp_sys::security::{Capabilities, CapabilitySets, capabilities, set_capabilities};

use crate::harness::{Scratch, Shell, until};

#[test]
fn privileged_figures_read_again_are_of_the_cgroup_that_is_there_now() {
    figures_are_of_the_cgroup_that_is_there(&Scratch::on_this_host());
}

#[test]
fn privileged_figures_read_again_are_of_the_cgroup_that_is_there_now_on_version_2() {
    figures_are_of_the_cgroup_that_is_there(&Scratch::on_version_2());
}

fn figures_are_of_the_cgroup_that_is_there(scratch: &Scratch) {
    let watched = scratch.child("container").remembering_files();
    for _ in 0..3 {
        assert_eq!(cpu_time_ns(&watched), 0);
        let shell = Shell::burn(&watched);
        until("it has used the cpu", || cpu_time_ns(&watched) > 50_000_000);
        watched.kill().unwrap();
        drop(shell);
        watched.remove().unwrap();
        assert!(matches!(
            watched.stats(Extent::Usage),
            Err(Error::NotFound { .. })
        ));
        scratch.child("container");
    }
}

#[test]
fn privileged_figures_are_read_where_no_file_may_be_opened_by_its_id() {
    /// linux/capability.h.
    const CAP_DAC_READ_SEARCH: u32 = 2;
    let scratch = Scratch::on_this_host();
    let watched = scratch.child("container").remembering_files();
    // The capabilities of the thread are gone with it.
    let reader = thread::spawn(move || {
        let own = capabilities().unwrap();
        let effective = Capabilities(own.effective.0 & !(1 << CAP_DAC_READ_SEARCH));
        set_capabilities(&CapabilitySets { effective, ..own }).unwrap();
        cpu_time_ns(&watched)
    });
    assert_eq!(reader.join().unwrap(), 0);
}

/// As the first kind of figures that there is without any controller.
fn cpu_time_ns(cgroup: &Cgroup) -> u64 {
    let stats = cgroup.stats(Extent::Usage).expect("figures are read");
    stats.cpu.expect("cpu figures").usage_ns
}
