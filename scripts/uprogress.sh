#!/usr/bin/env bash
# Asks how far a distribution is (sender): code 0 ready or over, 4 not yet, 1 failed or unknown.
#   uprogress.sh NAME [BASESUBDIR] [options of bftv2 uprogress]
#   uprogress.sh film cfec-001 --watch
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

task=$(taskname "$1" "${2:-}")
exec "$BFTV2" uprogress "$task" "${@:3}"
