#!/usr/bin/env bash
# Makes sample packages with `bftv2 sample-dcp` and has clairmeta, an independent package validator, check them.
#   scripts/check_sample_dcp.sh
#   BFT2_BIN=target/release/bftv2 scripts/check_sample_dcp.sh    # this binary instead of `cargo run`
#   BFT2_CACHE=/some/dir scripts/check_sample_dcp.sh             # where the validator is installed once
set -euo pipefail
cd "$(dirname "$0")/.."

CLAIRMETA=clairmeta==1.6.3
venv=${BFT2_CACHE:-$HOME/.cache/bft2}/clairmeta-venv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n== %s\n' "$*"; }
die() { printf 'check_sample_dcp: %s\n' "$*" >&2; exit 1; }

install_validator() {
    "$venv/bin/python" -c 'import clairmeta' 2>/dev/null && return
    say "installing $CLAIRMETA into $venv"
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    if ! python3 -m venv "$venv" >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
            die "python3 cannot make a virtual environment: install the package python3-venv (Debian) and try again"
        apt-get install -y -q python3-venv >/dev/null || die "apt-get install python3-venv failed"
        rm -rf "$venv"
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install --quiet "$CLAIRMETA" || die "pip could not install $CLAIRMETA"
}

sample() {
    if [ -n "${BFT2_BIN:-}" ]; then "$BFT2_BIN" sample-dcp "$@"; else cargo run --quiet -- sample-dcp "$@"; fi
}

validate() { "$venv/bin/python" -m clairmeta.cli check -type dcp "$@" 2>&1; }

# The package must pass without an error, a warning or a remark: lines such as "  . PKL size check".
# One remark is expected: a VF's pictures are elsewhere. clairmeta withdraws it only where it can open the first
# package's pictures, for which it needs asdcp-info; it still looks up that the first package has them.
passes() {
    local report remarks
    report=$(validate "$@") || { printf '%s\n' "$report"; die "$1: the validator found errors"; }
    remarks=$(grep -E '^ *\. ' <<<"$report" | grep -v 'CPL assets referencing external package' || true)
    { [ -z "$remarks" ] && grep -q '^Status *: *Success' <<<"$report"; } ||
        { printf '%s\n' "$report"; die "$1: the validator complains"; }
    printf 'valid: %s\n' "$(basename "$1")"
}

# The package must fail, and for the reason in the second argument: otherwise this script checks nothing.
fails() {
    local report
    report=$(validate "$1") && die "$1: the validator did not see the damage"
    { grep -q '^Status *: *Fail' <<<"$report" && grep -qi "$2" <<<"$report"; } ||
        { printf '%s\n' "$report"; die "$1: the validator failed for another reason than: $2"; }
    printf 'damage seen: %s\n' "$2"
}

install_validator

say "SMPTE, two reels, VF, second version"
sample "$work" --name film --reels 2 --size 60M --vf film_VF --version2 film2 --share 90
passes "$work/film"
passes "$work/film_VF" -ov "$work/film"
passes "$work/film2"

say "Interop with a directory"
sample "$work" --name old --standard interop --subdir media --names uuid --size 20M
passes "$work/old"

say "25 frames a second, stereo, names with suffixes, a feature of three reels"
sample "$work" --name pal --fps 25 --channels 2 --names suffix --kind feature --reels 3 --seconds 6 --size 30M
passes "$work/pal"

say "Interop VF, 48 frames a second, eight channels, named by its title"
sample "$work/hfr" --standard interop --fps 48 --channels 8 --size 25M --vf hfr_VF
passes "$work"/hfr/BftSample_*
passes "$work/hfr/hfr_VF" -ov "$work"/hfr/BftSample_*

say "damage"
track=$(find "$work/film" -name 'j2c_*.mxf' | sort | head -n 1)
at=$(($(stat -c %s "$track") / 2))
old=$(od -An -tu1 -j "$at" -N 1 "$track" | tr -d ' ')
printf "\\x$(printf %02x $((old ^ 1)))" | dd of="$track" bs=1 seek="$at" conv=notrunc status=none
fails "$work/film" 'Corrupt file'
truncate -s -1 "$(find "$work/old" -name '*.mxf' | sort | head -n 1)"
fails "$work/old" 'Invalid size'

say "all packages are valid, and damage is found"
