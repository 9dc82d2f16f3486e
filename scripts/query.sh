#!/usr/bin/env bash
# Asks whether a gentask has finished (taskfilesquery): code 0 finished, 4 not yet, 1 failed or no such package.
#   query.sh NAME [BASESUBDIR] [options of bftv2 query]
#   query.sh film cfec-001 --watch
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 basesubdir=${2:-$BFT2_BASESUBDIR}
task=$(taskname "$name" "$basesubdir")
exec "$BFTV2" query "$BFT2_DCP/$basesubdir/dcps/$name" --taskfile "$BFT2_DATA/sender/tmp/$task" "${@:3}"
