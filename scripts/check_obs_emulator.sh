#!/usr/bin/env bash
# Checks the tests' OBS emulator with Huawei's official SDK. The SDK lives in a virtual environment below BFT2_CACHE.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_venv
sdk=esdk-obs-python==3.26.6
venv="$BFT2_CACHE/obs-sdk-venv"
if ! "$venv/bin/python" -c 'import obs' 2>/dev/null; then
    step "installing $sdk into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "$sdk"
fi
BFT2_SDK_PYTHON="$venv/bin/python" cargo test --locked --test obs_sdk -- --nocapture
