#!/usr/bin/env bash
# Scans DIR (BFT2_DCP, /data/dcp) every 60 s (BFT2_SCAN_PERIOD). The service watches its library itself; this is for
# those who have always run it, and for a mounted bucket that is to be looked at more often. A scan reads no file; what is
# new or has changed is hashed by the service. A line that was deleted from hashtable.txt by hand comes back with it.
#   nohup mhashtable.sh [DIR] >/dev/null 2>&1 &
# It logs to /var/log/bft2/mhashtable.log (BFT2_LOGDIR): scans that found something, and those that failed.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
[ $# -eq 0 ] || given "$@"

dir=${1:-$BFT2_DCP}
log=${BFT2_LOGDIR:-/var/log/bft2}/mhashtable.log
mkdir -p -- "$(dirname "$log")" || exit 5
exec 9>>"$log" || exit 5
flock -n 9 || { complain "a scanner writes to $log already" && exit 1; }

say() {
    printf '%(%F %T)T %s\n' -1 "$*" >&9
}

trap 'say stop; exit 0' TERM INT HUP
say "start: $dir"
before=
while true; do
    found=$("$BFTV2" hash add "$dir" 2>&1 9>&-) || found="code $?: $found"
    case $found in
    "$before" | '0 to hash, '*', 0 gone') ;;
    *) say "$found" ;;
    esac
    before=$found
    sleep "${BFT2_SCAN_PERIOD:-60}" 9>&- & # waited for, so that a signal is heard at once
    wait $! || true
done
