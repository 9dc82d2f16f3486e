#!/usr/bin/env bash
# Hashes this node's whole library again, or a directory of it: after an installation where packages are present, and after
# a change of servertype or receiverstoreplan. Ends when nothing is left to hash; Ctrl-C ends the waiting, not the hashing.
#   inithashtable.sh [DIR] [options of bftv2 hash init]
#   inithashtable.sh /data/dcp/cfec-001/dcps/film
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
[ $# -eq 0 ] || given "$@"

exec "$BFTV2" hash init --watch "$@"
