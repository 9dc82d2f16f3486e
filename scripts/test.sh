#!/usr/bin/env bash
# Everything that must be true of a commit: format, lints, tests (the OpenAPI document's freshness among them), and the
# checks of our own tools by other people's. As root it installs what is missing; otherwise it says what to install.
#
#   scripts/test.sh              all of it
#   BFT2_DENY=1 scripts/test.sh  also install cargo-deny for the check of licences (takes minutes, once; CI does it)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

have cargo || die "cargo is missing: install Rust from https://rustup.rs"
have cc || die "a C compiler is missing: install gcc (Debian, Ubuntu: apt-get install build-essential)"

step "tools that the tests use"
need ctorrent
need opentracker
need aria2c aria2
need transmission-cli
need curl
need faketime
need shellcheck
# For tests that need root anyway: elsewhere they are skipped.
if [ "$(id -u)" = 0 ]; then
    need mkfs.xfs xfsprogs
    need mkfs.ext4 e2fsprogs
    need bindfs
fi
need_venv

step "format"
cargo fmt --check

step "scripts"
shellcheck --severity=warning scripts/*.sh

step "lints"
cargo clippy --locked --all-targets -- -D warnings

step "tests"
cargo test --locked --no-fail-fast

for check in scripts/check_sample_dcp.sh scripts/check_obs_emulator.sh scripts/check_clients.sh; do
    if [ -x "$check" ]; then
        step "$check"
        "$check"
    fi
done

step "licences, banned crates, sources"
if ! have cargo-deny && [ "${BFT2_DENY:-${CI:+1}}" = 1 ]; then
    cargo install --locked cargo-deny
fi
if have cargo-deny; then
    cargo deny --locked check licenses bans sources
else
    echo "skipped: cargo-deny is not installed (BFT2_DENY=1 installs it)"
fi

step "all good"
