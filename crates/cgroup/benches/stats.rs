//! The figures of a cgroup, from files such as the kernel's: what is left is the kernel's own work.

use crisp_cgroup::{Cgroup, CgroupPath, Extent, Hierarchies};
use std::fs;
use tempfile::TempDir;

/// Of a container on version 2, as an idle one has them.
const FILES: [(&str, &str); 14] = [
    (
        "cpu.stat",
        "usage_usec 51234\nuser_usec 30000\nsystem_usec 21234\nnice_usec 0\n\
         core_sched.force_idle_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\n\
         burst_usec 0\n",
    ),
    ("memory.current", "864256\n"),
    ("memory.peak", "1064960\n"),
    ("memory.max", "max\n"),
    ("memory.swap.current", "0\n"),
    (
        "memory.events",
        "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    ),
    ("memory.stat", MEMORY_STAT),
    ("pids.current", "1\n"),
    ("pids.max", "max\n"),
    ("pids.events", "max 0\n"),
    (
        "io.stat",
        "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
    ),
    ("cpu.pressure", PRESSURE),
    ("memory.pressure", PRESSURE),
    ("io.pressure", PRESSURE),
];

const MEMORY_STAT: &str = "anon 98304\nfile 4096\nkernel 581632\nkernel_stack 16384\npagetables 49152\n\
    sec_pagetables 0\npercpu 3648\nsock 0\nvmalloc 0\nshmem 0\nzswap 0\nzswapped 0\nfile_mapped 0\n\
    file_dirty 0\nfile_writeback 0\nswapcached 0\nanon_thp 0\nfile_thp 0\nshmem_thp 0\ninactive_anon 94208\n\
    active_anon 4096\ninactive_file 4096\nactive_file 0\nunevictable 0\nslab_reclaimable 297896\n\
    slab_unreclaimable 179496\nslab 477392\nworkingset_refault_anon 0\nworkingset_refault_file 0\n\
    workingset_activate_anon 0\nworkingset_activate_file 0\nworkingset_restore_anon 0\n\
    workingset_restore_file 0\nworkingset_nodereclaim 0\npgscan 0\npgsteal 0\npgfault 497\npgmajfault 0\n\
    pgrefill 0\npgactivate 1\npgdeactivate 0\npglazyfree 0\npglazyfreed 0\nthp_fault_alloc 0\n\
    thp_collapse_alloc 0\n";

const PRESSURE: &str = "some avg10=0.00 avg60=0.01 avg300=0.00 total=51234\n\
    full avg10=0.00 avg60=0.01 avg300=0.00 total=50123\n";

fn main() {
    divan::main();
}

#[divan::bench(args = [Extent::Usage, Extent::All])]
fn stats(bencher: divan::Bencher<'_, '_>, extent: Extent) {
    let (_root, cgroup) = container();
    bencher.bench_local(|| cgroup.stats(extent).expect("all files are there"));
}

fn container() -> (TempDir, Cgroup) {
    let root = tempfile::tempdir().expect("a directory can be made");
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).expect(name);
    write("cgroup.controllers", "cpuset cpu io memory pids\n");
    fs::create_dir(root.path().join("container")).expect("a directory can be made");
    for (name, text) in FILES {
        write(&format!("container/{name}"), text);
    }
    let hierarchies = Hierarchies::at(root.path()).expect("it has controllers");
    let path = CgroupPath::parse("/container").expect("a path");
    (root, hierarchies.open(&path))
}
