#!/usr/bin/env bash
# Asks what a cacher does with a task: code 0 no error, 1 an error or unknown.
#   cprogress.sh NAME [BASESUBDIR] [options of bftv2 cprogress]
#   cprogress.sh film cfec-001 --json
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

task=$(taskname "$1" "${2:-}")
exec "$BFTV2" cprogress "$task" "${@:3}"
