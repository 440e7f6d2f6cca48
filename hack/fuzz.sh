#!/usr/bin/env bash
# Feeds what reads hostile bytes with inputs of its own making, and ends with the first that breaks it.
#
#   hack/fuzz.sh [SECONDS [TARGET…]]    10 seconds for each target of fuzz/, or for those named
#
# The committed inputs in fuzz/corpus/ are where it begins; what it finds beside them stays in
# target/fuzz/corpus/, where the next run goes on. A breaking input is named, to be tried again by
# `target/tools/bin/cargo-fuzz fuzz run TARGET INPUT`: it becomes a unit test beside the code that
# mends it.
set -euo pipefail
# shellcheck source=hack/tools.sh
. "$(dirname "$0")/tools.sh"
cd "$root"

# Bytes of memory that a target may take, in MiB, and seconds for one input.
memory_max_mib=1024
input_max_s=10

seconds=${1:-10}
[ $# -eq 0 ] || shift

# libFuzzer is C++.
need_command c++ "install g++, with which libFuzzer is built"
need_command cargo "install Rust from https://rustup.rs"
cargo_fuzz

# The libraries below us have unsafe code, which only the address sanitizer sees fail. It needs nightly.
if rustup run nightly rustc --version >/dev/null 2>&1; then
    export RUSTUP_TOOLCHAIN=nightly
    sanitizer=address
else
    echo "without the address sanitizer, for want of a nightly toolchain: rustup toolchain install nightly --profile minimal"
    sanitizer=none
fi

cargo_fuzz=("$tools/bin/cargo-fuzz" fuzz)
options=(--fuzz-dir fuzz --target-dir "$target/fuzz" --sanitizer "$sanitizer")

[ $# -gt 0 ] || mapfile -t names < <("${cargo_fuzz[@]}" list --fuzz-dir fuzz)
[ $# -eq 0 ] || names=("$@")
"${cargo_fuzz[@]}" build "${options[@]}"

# figures LOG: the executions and the edges that were covered, from libFuzzer's last lines.
figures() {
    local runs covered
    runs=$(sed -n 's/^Done \([0-9]*\) runs in .*/\1/p' "$1")
    covered=$(grep -o ' cov: [0-9]*' "$1" | tail -1 | tr -dc 0-9)
    printf '%10d executions, %5d edges' "${runs:-0}" "${covered:-0}"
}

for name in "${names[@]}"; do
    found=$target/fuzz/corpus/$name
    log=$target/fuzz/$name.log
    mkdir -p "$found"
    if "${cargo_fuzz[@]}" run "${options[@]}" "$name" "$found" "fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -rss_limit_mb=$memory_max_mib -timeout=$input_max_s \
        -print_final_stats=0 >"$log" 2>&1; then
        printf '%-10s %s\n' "$name" "$(figures "$log")"
    else
        tail -n 40 "$log"
        die "$name: broken, see $log"
    fi
done
