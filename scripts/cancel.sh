#!/usr/bin/env bash
# Stops a task, a reception before a distribution, and removes leftovers. The service itself deletes what was fetched so
# far; here go copies of the task file that wait in receiver/tmp or receiver/queues. Code 0 also if there is no such task.
#   cancel.sh NAME [BASESUBDIR] [options of bftv2 cancel]
#   cancel.sh film cfec-001
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

task=$(taskname "$1" "${2:-}")
"$BFTV2" cancel "$task" "${@:3}"
tmp=$BFT2_DATA/receiver/tmp queues=$BFT2_DATA/receiver/queues
rm -f -- "$tmp/$task" "$tmp/$task.part" "$queues/$task" "$queues/$task.err"
