//! Figures that are read again and again.

use crisp_cgroup::{Cgroup, Error, Extent};

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

/// As the first kind of figures that there is without any controller.
fn cpu_time_ns(cgroup: &Cgroup) -> u64 {
    let stats = cgroup.stats(Extent::Usage).expect("figures are read");
    stats.cpu.expect("cpu figures").usage_ns
}
