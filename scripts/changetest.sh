#!/usr/bin/env bash
# Writes another basesubdir into test files, wherever the old one stands as a word of its own: cfec-001 in
# /data/dcp/cfec-001/dcps or cfec-001-film.task.json, but not in cfec-0012.
#   changetest.sh OLD NEW [FILE...]
#   changetest.sh cfec-001 wuxi-001 case1.frank mytest.sh
# Without files: case*.frank here. The scripts of this directory need no change: they read BFT2_BASESUBDIR.
# Code 1: OLD stands in none of the files.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
given "$@"
[ $# -ge 2 ] || usage

old=$1 new=$2
for subdir in "$old" "$new"; do
    [[ $subdir =~ ^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$ ]] || { complain "odd basesubdir '$subdir': such as cfec-001" && exit 2; }
done
shift 2
[ $# -gt 0 ] || set -- case*.frank
changed=1
for file in "$@"; do
    [ -f "$file" ] || { complain "$file: no such file" && exit 5; }
    lines=$(grep -cw -e "$old" -- "$file") || continue
    sed -i --follow-symlinks "s/\\b$old\\b/$new/g" -- "$file"
    echo "$file: $lines lines"
    changed=0
done
exit "$changed"
