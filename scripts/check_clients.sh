#!/usr/bin/env bash
# What a developer of a client relies on: openapi/bft2.json passes a validator and a linter, well-known generators make a
# Python and a TypeScript client of it, both drive real nodes through deliveries and read the resources below /v1, and
# schemathesis finds no reply that the document does not allow. Tools and clients lie outside the checkout.
#   scripts/check_clients.sh
#   BFT2_BIN=target/release/bftv2 scripts/check_clients.sh    # this binary instead of one that cargo builds
#   BFT2_CACHE=/some/dir scripts/check_clients.sh             # where the tools are installed once
set -euo pipefail
. "$(dirname "$0")/lib.sh"

spec=$PWD/openapi/bft2.json
clients=$PWD/tests/clients
venv=$BFT2_CACHE/clients-venv
npm_dir=$BFT2_CACHE/clients-npm
subdir=cfec-001
token=EXAMPLE-TOKEN
work=$(mktemp -d)
pids=()
# What talks to the nodes must not ask a proxy.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

finish() {
    local status=$?
    [ "$status" = 0 ] || tail -n 25 "$work"/*/log/{bftv2,output}.log 2>/dev/null || true
    [ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
    { wait; } 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

install_python_tools() {
    need_venv
    cmp -s "$clients/python/requirements.txt" "$venv/requirements.txt" && return
    step "installing the Python tools into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$clients/python/requirements.txt"
    cp "$clients/python/requirements.txt" "$venv/"
}

install_node_tools() {
    need node nodejs
    need npm
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || die "node $(node --version) is older than 18"
    cmp -s "$clients/typescript/package-lock.json" "$npm_dir/installed" && return
    step "installing the Node tools into $npm_dir"
    mkdir -p "$npm_dir"
    cp "$clients"/typescript/package*.json "$npm_dir/"
    (cd "$npm_dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    cp "$npm_dir/package-lock.json" "$npm_dir/installed"
}

# Ports below the range from which the system gives ports to outgoing connections, each free at this moment.
free_ports() {
    python3 - "$1" <<'END'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", random.randrange(20000, 32000)))
    except OSError:
        continue
    held.append(listener)
print(*(listener.getsockname()[1] for listener in held))
END
}

# start_node ROLE API BT CONSOLE [KEYS]: a node of its own below $work, running and answering.
start_node() {
    local role=$1 api=$2 bt=$3 console=$4 keys=${5:-} root=$work/$1 pid
    mkdir -p "$root"/log "$root"/data/{sender,receiver}/tmp "$root/data/dcp/$subdir/dcps"
    cat >"$root/config.json" <<END
{
  "servertype": "$role", "senderid": "cfec", "basesubdir": "$subdir", "receiverstoreplan": "B", "token": "$token",
  "listen": "127.0.0.1:$api", "btlisten": "127.0.0.1:$bt", "console": "127.0.0.1:$console",
  "datadir": "$root/data", "basedatapath": "$root/data/dcp", "database": "$root/bft2.db", "logdir": "$root/log",
  "hashtable": "$root/hashtable.txt",
  "bttime": "00:00-23:59", "obstime": "00:00-23:59", "cdntime": "00:00-23:59", "defaultseedtime": "1",
  "tracker": "http://127.0.0.1:$tracker_port/announce", "btpeers": ["127.0.0.1:$sender_bt"],
  "senderdomain": "http://127.0.0.1:$web_port", "cdnurl": "http://127.0.0.1:$web_port",
  "obsurl": "obs://$subdir", "obsendpoint": "file://$work/objects", "splitfiles": true,
  $keys
}
END
    (cd "$root" && exec "$bin" serve --config config.json) >"$root/log/output.log" 2>&1 &
    pid=$!
    pids+=("$pid")
    for _ in {1..300}; do
        curl -fs "http://127.0.0.1:$api/heartbeat" >/dev/null && return
        kill -0 "$pid" 2>/dev/null || die "the $role ended"
        sleep 0.1
    done
    die "the $role does not answer"
}

# Two versions of a film, half of whose bytes are the same files. NAME SEED.
make_packages() {
    "$bin" sample-dcp "$work/sender/data/dcp/$subdir/dcps" --name "$1" --version2 "$1-second" --share 50 --reels 2 \
        --size 12M --seed "$2" >/dev/null
}

need curl
install_python_tools
install_node_tools
export PATH="$venv/bin:$PATH"

step "openapi/bft2.json: valid, and as clients need it"
openapi-spec-validator "$spec"
cp "$clients"/python/*.py "$clients"/typescript/*.{json,mjs,ts} "$work/"
ln -s "$npm_dir/node_modules" "$work/node_modules"
node "$work/lint.mjs" "$clients/redocly.yaml" "$spec"

step "generated clients"
openapi-python-client generate --path "$spec" --meta none --output-path "$work/bft2_client" --fail-on-warning
"$npm_dir/node_modules/.bin/openapi-typescript" "$spec" --output "$work/bft2.d.ts"
"$npm_dir/node_modules/.bin/tsc" --project "$work"

step "docs/clients.md shows what is run here"
python "$clients/snippets.py" docs/clients.md "$clients"/python/*.py "$clients"/typescript/*.ts

step "a sender and a receiver"
bin=${BFT2_BIN:-}
if [ -z "$bin" ]; then
    cargo build --locked --quiet
    bin=$CARGO_TARGET_DIR/debug/bftv2
fi
bin=$(realpath "$bin")
umask 077 # configurations hold a token
read -r tracker_port web_port sender_api sender_bt receiver_api receiver_bt c1 c2 <<<"$(free_ports 8)"
mkdir -p "$work/objects/$subdir"
start_node sender "$sender_api" "$sender_bt" "$c1" \
    "\"trackerlisten\": \"127.0.0.1:$tracker_port\", \"weblisten\": \"127.0.0.1:$web_port\""
start_node receiver "$receiver_api" "$receiver_bt" "$c2"

export BFT2_TOKEN=$token
nodes=("http://127.0.0.1:$sender_api" "$work/sender/data" "http://127.0.0.1:$receiver_api" "$work/receiver/data")

step "the Python client delivers"
make_packages python 1
python "$work/check.py" "${nodes[@]}" python

step "the TypeScript client delivers"
make_packages typescript 2
node "$work/out/check.js" "${nodes[@]}" typescript

step "schemathesis"
cd "$work"
schemathesis --config-file "$clients/schemathesis.toml" run "$spec" --url "http://127.0.0.1:$sender_api" \
    --header "Authorization: Bearer $token"

step "the clients and the document agree with the nodes"
