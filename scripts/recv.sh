#!/usr/bin/env bash
# Receives a package from scratch: brings the task file from the sender, clears what an earlier reception left, recv.
#   recv.sh NAME [BASESUBDIR REACTIVE SENDER] [options of bftv2 recv]
#   recv.sh film cfec-001 false http://sender.example.com:8191
# SENDER: see cpsendertask in functions.sh; without it the task file is in receiver/tmp already. REACTIVE: default false.
#
# It cancels a reception of that task, and deletes <store>/<name>, <store>/<name>.finished and receiver/queues/<task>,
# nothing else: older scripts emptied all of /data/dcp, yet other packages are a cinema's programme, or on their way just
# now, and what is in the library need not be fetched. recv2.sh deletes nothing.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 basesubdir=${2:-$BFT2_BASESUBDIR} reactive=${3:-false} sender=${4:-}
task=$(taskname "$name" "$basesubdir")
file=$BFT2_DATA/receiver/tmp/$task
[ -z "$sender" ] || cpsendertask "$task" "$sender"
# Without a task file the service refuses, and nothing is lost.
if [ -f "$file" ]; then
    # The queue shows the service's database: what waits or runs is cancelled there. 4 is "not finished".
    "$BFTV2" progress "$task" >/dev/null 2>&1 && code=0 || code=$?
    [ "$code" -ne 4 ] || "$BFTV2" cancel "$task"
    rm -f -- "$BFT2_DATA/receiver/queues/$task"
    cleanstore "$name"
fi
exec "$BFTV2" recv "$file" --reactive "$reactive" "${@:5}"
