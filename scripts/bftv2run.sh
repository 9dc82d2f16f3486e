#!/usr/bin/env bash
# Watchdog: runs `bftv2 serve` and starts it again whenever it ends. For machines without systemd; where there is one,
# docs/bftv2.service does this. SIGTERM or Ctrl-C stops the service and then the watchdog.
#   bftv2run.sh [CONFIG]
#   nohup bftv2run.sh /etc/bft2/config.json >/dev/null 2>&1 &
# It logs to /var/log/bft2/bftv2run.log (BFT2_LOGDIR). Between two starts it waits for 5 s (BFT2_RESTART_DELAY); for longer,
# up to a minute, when the service ends again and again.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$0")/functions.sh"
[ $# -eq 0 ] || given "$@"

config=${1:-/etc/bft2/config.json}
log=${BFT2_LOGDIR:-/var/log/bft2}/bftv2run.log
first=${BFT2_RESTART_DELAY:-5}
mkdir -p -- "$(dirname "$log")" || exit 5
exec 9>>"$log" || exit 5
flock -n 9 || { complain "a watchdog writes to $log already" && exit 1; }
exec >>"$log" 2>&1 # opened anew: a service that outlives its watchdog must not hold the lock

say() {
    printf '%(%F %T)T %s\n' -1 "$*"
}

stop() {
    trap '' TERM INT HUP
    say "stop"
    for pid in $(jobs -p); do
        kill "$pid" 2>/dev/null || true
    done
    wait
    exit 0
}

trap stop TERM INT HUP
delay=$first
while true; do
    say "start: $BFTV2 serve --config $config"
    began=$SECONDS
    "$BFTV2" serve --config "$config" </dev/null 9>&- &
    wait $! && code=0 || code=$?
    say "ended with code $code after $((SECONDS - began)) s"
    [ $((SECONDS - began)) -lt 60 ] || delay=$first
    sleep "$delay" 9>&- & # waited for, so that a signal is heard at once
    wait $!
    delay=$((delay < 30 ? delay * 2 : 60))
done
