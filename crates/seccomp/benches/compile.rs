//! The default profile, as each new set of capabilities has it compiled.

use crisp_seccomp::{compile, default_profile};

fn main() {
    divan::main();
}

#[divan::bench]
fn default_profile_to_bpf(bencher: divan::Bencher<'_, '_>) {
    let profile = default_profile(&Default::default());
    bencher.bench_local(|| compile(&profile).expect("it can be compiled"));
}
