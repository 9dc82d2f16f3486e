# shellcheck shell=bash
# What the scripts of a delivery share; not for building, that is lib.sh. A script sources it:
#   . "$(dirname "$0")/functions.sh"
# and so may a shell: every function returns a code and never ends the caller, save `usage` and `given`.
#
# Codes are those of bftv2 (`bftv2 --help`): 0 good, 1 refused or not good, 2 wrong usage, 3 no service, 4 not finished,
# 5 trouble on this machine. The service and its token are BFT2_URL and BFT2_TOKEN, which bftv2 reads itself.

BFTV2=${BFTV2:-bftv2}
# The key `datadir`: task files lie in sender/ and receiver/ there.
BFT2_DATA=${BFT2_DATA:-/data}
# The key `basedatapath`: a sender's packages are <BFT2_DCP>/<basesubdir>/dcps/<name>.
BFT2_DCP=${BFT2_DCP:-$BFT2_DATA/dcp}
# Where a receiver keeps packages. With store plan B, and on a sender that receives: /data/dcp/<basesubdir>/dcps.
BFT2_STORE=${BFT2_STORE:-$BFT2_DCP}
BFT2_BASESUBDIR=${BFT2_BASESUBDIR:-cfec-001}

complain() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# usage: a script's opening comment is its manual.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# given "$@": there are arguments, and the first is no cry for help.
given() {
    case ${1:--h} in
    -h | --help) usage ;;
    esac
}

# plain WHAT VALUE: VALUE is one name. It becomes part of paths, some of which are deleted.
plain() {
    case ${2:-} in
    '' | .* | -* | */* | *[[:cntrl:]]*)
        complain "odd $1 '${2:-}': a name without '/', which begins with neither '.' nor '-'"
        return 2
        ;;
    esac
}

# taskname NAME [BASESUBDIR]: the name of the task file.
taskname() {
    local basesubdir=${2:-$BFT2_BASESUBDIR}
    plain name "${1:-}" && plain basesubdir "$basesubdir" || return
    printf '%s-%s.task.json\n' "$basesubdir" "$1"
}

# waitfinished NAME [BASESUBDIR]: until gentask has made task file and torrents.
waitfinished() {
    local task
    task=$(taskname "$@") || return
    waitfinished2 "$BFT2_DCP/${2:-$BFT2_BASESUBDIR}/dcps/$1" "$BFT2_DATA/sender/tmp/$task"
}

# waitfinished2 DCPPATH TASKFILE: the same for paths of one's own.
waitfinished2() {
    "$BFTV2" query "$1" --taskfile "$2" --watch
}

# waitready NAME [BASESUBDIR]: until receivers may be told.
waitready() {
    local task
    task=$(taskname "$@") || return
    "$BFTV2" uprogress "$task" --watch
}

# waitdownloaded NAME [BASESUBDIR]: until the package is verified and in its store.
waitdownloaded() {
    local task
    task=$(taskname "$@") || return
    "$BFTV2" progress "$task" --watch
}

# cleanstore NAME: deletes a received package and its end mark. A directory without the mark was not received here (on a
# sender it is a master): it stays, and the code is 1.
cleanstore() {
    plain name "${1:-}" || return
    local package=$BFT2_STORE/$1
    case $BFT2_STORE in
    /*[!/]*) ;;
    *) complain "BFT2_STORE is '$BFT2_STORE': give an absolute path that is not '/'" && return 2 ;;
    esac
    if { [ -e "$package" ] || [ -L "$package" ]; } && [ ! -f "$package.finished" ]; then
        complain "$package has no $1.finished beside it, so it was not received here: nothing was deleted. Move it away."
        return 1
    fi
    # The mark goes last: what breaks off can be repeated.
    rm -rf -- "$package" && rm -f -- "$package.finished"
}

# checkdcp NAME [BASESUBDIR [TORRENT]]: the package in the store against its packing list and against the full torrent,
# by bftv2 and, where it is installed, by ctorrent. Without TORRENT: the one in this machine's library, else the one that
# the task file names. Where there is none the packing list has to do.
checkdcp() (
    task=$(taskname "$@") || exit
    dir=$BFT2_STORE/$1
    torrent=${3:-$BFT2_DCP/${2:-$BFT2_BASESUBDIR}/dcps/$1.torrent}
    work=$(mktemp -d) || exit 5
    trap 'rm -rf -- "$work"' EXIT
    if [ $# -lt 3 ] && [ ! -f "$torrent" ]; then
        torrent=$work/full.torrent
        if ! fetchtorrent "$task" "$torrent"; then
            echo "no full torrent at hand: the packing list alone"
            "$BFTV2" check "$dir"
            exit
        fi
    fi
    # First: ctorrent makes the files that are missing.
    "$BFTV2" check "$dir" --torrent "$torrent" || exit
    command -v ctorrent >/dev/null || exit 0
    # Its exit code is always 0. It keeps a bitfield beside the torrent unless told where.
    pieces=$(ctorrent -c -b "$work/bitfield" -s "$dir" "$torrent" </dev/null | sed -n 's|^Already/Total: \([0-9/]*\).*|\1|p') || true
    echo "ctorrent: ${pieces:-no answer} pieces"
    [ -n "$pieces" ] && [ "${pieces%/*}" = "${pieces#*/}" ]
)

# fetchtorrent TASK FILE: the full torrent that a received task names (`bt.url`).
fetchtorrent() {
    local url at=$BFT2_DATA/receiver
    url=$(grep -hos '"url": *"http[^"]*\.torrent"' -- "$at/downloaded/$1" "$at/history/$1" | head -n 1 | cut -d '"' -f 4) || true
    [ -n "$url" ] && curl -gfsS --max-time 60 --proto =http,https -o "$2" -- "$url"
}

# cpsendertask TASK SENDER: a task file from the sender into receiver/tmp. SENDER is a URL, host:port, or a host whose
# service listens on 8191; the sender's token is BFT2_FROM_TOKEN. BFT2_COPY=scp: by scp from [user@]host, as older
# versions did, out of sender/uploaded in the sender's `datadir` (BFT2_SENDER_DATA).
cpsendertask() {
    local task=${1%.task.json}.task.json from=${2:-}
    local to=$BFT2_DATA/receiver/tmp/$task
    plain task "$task" || return
    case $from in
    '' | -* | *[[:space:]]*) complain "odd sender '$from': a URL or a host" && return 2 ;;
    esac
    if [ "${BFT2_COPY:-}" = scp ]; then
        (umask 077 && scp -q -- "$from:${BFT2_SENDER_DATA:-/data}/sender/uploaded/$task" "$to.part") && mv -f -- "$to.part" "$to"
        return
    fi
    case $from in
    http://* | https://*) ;;
    *:*[0-9]) from=http://$from ;; # but not [2001:db8::1]
    *) from=http://$from:8191 ;;
    esac
    "$BFTV2" fetch "$task" --from "$from" --to "$to"
}
