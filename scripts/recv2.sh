#!/usr/bin/env bash
# Receives a package and clears nothing first: to repeat a reception, to go on with one, and beside nodes of version 1.
#   recv2.sh NAME [BASESUBDIR REACTIVE SENDER] [options of bftv2 recv]
#   recv2.sh film cfec-001 true sender.example.com
# SENDER: see cpsendertask in functions.sh; without it the task file is in receiver/tmp already. REACTIVE: default false.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

task=$(taskname "$1" "${2:-}")
[ -z "${4:-}" ] || cpsendertask "$task" "$4"
exec "$BFTV2" recv "$BFT2_DATA/receiver/tmp/$task" --reactive "${3:-false}" "${@:5}"
