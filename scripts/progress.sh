#!/usr/bin/env bash
# Asks how far a reception is (receiver): code 0 in its store, 4 not yet, 1 failed or unknown.
#   progress.sh NAME [BASESUBDIR] [options of bftv2 progress]
#   progress.sh film cfec-001 --watch
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

task=$(taskname "$1" "${2:-}")
exec "$BFTV2" progress "$task" "${@:3}"
