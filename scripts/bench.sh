#!/usr/bin/env bash
# Measures gentask, deliveries and memory against mktorrent, aria2c and openssl, the SHA-1 kernel against the crate, and the
# library against its limits.
# Prints one table of ratios; ends with 1 when a limit is missed. As root it installs what is missing.
#
#   scripts/bench.sh                         everything: 2 GB three times, 8 GB once; about twenty minutes
#   scripts/bench.sh --quick                 200 MB, once
#   scripts/bench.sh --only gentask,cdn      also: bt, api (calls during a delivery), swarm, memory, kernel, library
#   scripts/bench.sh --dir /big/disk         on a disk (default: in memory, where there is room); --durable: theirs syncs too
#   scripts/bench.sh --size 4G --memory-size 20G --runs 5
set -euo pipefail
. "$(dirname "$0")/lib.sh"

have cargo || die "cargo is missing: install Rust from https://rustup.rs"
step "tools to compare with"
need mktorrent
need aria2c aria2
need openssl

# "kernel" and "library" are no deliveries: take them out of the list.
args=() only="" kernel=1 library=1 deliveries=1
while [ $# -gt 0 ]; do
    case $1 in
        --only) only=${2:?--only needs a list}; shift ;;
        --only=*) only=${1#--only=} ;;
        *) args+=("$1") ;;
    esac
    shift
done
if [ -n "$only" ]; then
    case ,$only, in *,kernel,*) ;; *) kernel=0 ;; esac
    case ,$only, in *,library,*) ;; *) library=0 ;; esac
    only=$(printf '%s' "$only" | tr ',' '\n' | grep -vx -e kernel -e library | paste -sd, - || true)
    if [ -n "$only" ]; then args+=(--only "$only"); else deliveries=0; fi
fi

step "release build"
cargo bench --locked --no-run --bench delivery --bench sha1 --bench library

if [ "$kernel" = 1 ]; then
    step "SHA-1 kernel"
    cargo bench --locked --bench sha1
fi
if [ "$library" = 1 ]; then
    step "library"
    cargo bench --locked --bench library
fi
if [ "$deliveries" = 1 ]; then
    step "deliveries"
    cargo bench --locked --bench delivery -- "${args[@]}"
fi
