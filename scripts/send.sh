#!/usr/bin/env bash
# Starts the distribution of a task: the one that gentask has made, else the one that was sent before.
#   send.sh NAME [BASESUBDIR REACTIVE] [options of bftv2 send]
#   send.sh film cfec-001 false
# REACTIVE true (default): a seed of the same name is stopped and started again; false: such a send is refused.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 basesubdir=${2:-$BFT2_BASESUBDIR} reactive=${3:-true}
task=$(taskname "$name" "$basesubdir")
file=$BFT2_DATA/sender/tmp/$task
for state in tmp failed queues uploading uploaded history; do
    [ ! -f "$BFT2_DATA/sender/$state/$task" ] || { file=$BFT2_DATA/sender/$state/$task && break; }
done
exec "$BFTV2" send "$file" --reactive "$reactive" "${@:4}"
