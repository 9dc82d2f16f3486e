#!/usr/bin/env bash
# Makes the task file and the torrents of a package in the sender's library (gentask). It goes on in the background:
# query.sh says when it is finished.
#   gentask.sh NAME [RATIO POLICY BASESUBDIR] [options of bftv2 gentask]
#   gentask.sh film 2:1:1 priortime cfec-001
# Defaults: 1:1:1, fulltime, cfec-001. A bucket whose keys are not those of the configuration has a line
# `bucket ak sk endpoint` in /etc/bft2/buckets.txt (BFT2_BUCKETS); its name is the basesubdir.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"

name=$1 ratio=${2:-1:1:1} policy=${3:-fulltime} basesubdir=${4:-$BFT2_BASESUBDIR}
task=$(taskname "$name" "$basesubdir")
buckets=${BFT2_BUCKETS:-/etc/bft2/buckets.txt}
endpoint=()
if [ -e "$buckets" ]; then
    while read -r bucket ak sk host _ || [ -n "$bucket" ]; do
        [ "$bucket" = "$basesubdir" ] || continue
        export BFT2_OBS_AK=$ak BFT2_OBS_SK=$sk # arguments are visible to other users
        endpoint=(${host:+--endpoint "$host"})
    done <"$buckets"
fi
exec "$BFTV2" gentask "$BFT2_DCP/$basesubdir/dcps/$name" --taskfile "$BFT2_DATA/sender/tmp/$task" \
    --basesubdir "$basesubdir" --ratio "$ratio" --policy "$policy" "${endpoint[@]}" "${@:5}"
