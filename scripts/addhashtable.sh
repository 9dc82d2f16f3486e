#!/usr/bin/env bash
# Hashes what is new or has changed in a directory of this node's library, and forgets what is gone there: after a package
# was copied in, or came by a way that shows no changes (a mounted bucket). Ends when nothing is left to hash; Ctrl-C ends
# the waiting, not the hashing. `bftv2 hash status` shows how much is left.
#   addhashtable.sh DIR [options of bftv2 hash add]
#   addhashtable.sh /data/dcp/cfec-001/dcps/film
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

exec "$BFTV2" hash add --watch "$@"
