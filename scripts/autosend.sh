#!/usr/bin/env bash
# Sends a package, all steps in a row: gentask, query until it is finished, send, uprogress until receivers may be told.
#   autosend.sh NAME [RATIO POLICY BASESUBDIR]
#   autosend.sh film 2:1:1 priortime cfec-001
# Defaults: 1:1:1, fulltime, cfec-001.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 basesubdir=${4:-$BFT2_BASESUBDIR}
here=$(dirname "$0")
"$here/gentask.sh" "$name" "${2:-}" "${3:-}" "$basesubdir"
waitfinished "$name" "$basesubdir"
"$here/send.sh" "$name" "$basesubdir" true
waitready "$name" "$basesubdir"
