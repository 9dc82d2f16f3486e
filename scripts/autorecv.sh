#!/usr/bin/env bash
# Receives a package, all steps in a row: task file from the sender, recv, progress until it is in its store, and a check
# against packing list and torrent (checkdcp in functions.sh).
#   autorecv.sh NAME [BASESUBDIR REACTIVE SENDER]
#   autorecv.sh film cfec-001 false http://sender.example.com:8191
# SENDER: see cpsendertask in functions.sh; without it the task file is in receiver/tmp already. REACTIVE: default false.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 basesubdir=${2:-$BFT2_BASESUBDIR}
"$(dirname "$0")/recv2.sh" "$name" "$basesubdir" "${3:-false}" "${4:-}"
waitdownloaded "$name" "$basesubdir"
checkdcp "$name" "$basesubdir"
