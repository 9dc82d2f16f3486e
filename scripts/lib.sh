# shellcheck shell=bash
# Shared by the scripts of this directory: `. "$(dirname "$0")/lib.sh"`. Leaves the caller in the repository's root.
# Functions only say, find and install; what a script does stays in that script.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Build results and Python environments outlive a checkout, so that a second run is quick.
export BFT2_CACHE="${BFT2_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bft2}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$BFT2_CACHE/target}"

# Announces a step.
step() {
    printf '\n== %s\n' "$*"
}

# Ends with a text.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# need COMMAND [PACKAGE]: the command, installed from the distribution when it is missing and we may.
need() {
    local command=$1 package=${2:-$1}
    have "$command" && return
    install_package "$package" "$command is missing"
    have "$command" || die "$package is installed, yet $command is not on the PATH"
}

# need_venv: Python environments can be made. Debian keeps that in a package of its own.
need_venv() {
    need python3
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
    install_package python3-venv "python3 cannot make virtual environments"
}

install_package() {
    local package=$1 why=$2
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        die "$why: install the package $package (Debian, Ubuntu: sudo apt-get install $package) and run this again"
    fi
    step "install $package ($why)"
    if [ -z "${apt_updated:-}" ]; then
        apt-get update -qq
        apt_updated=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
}
