#!/bin/sh
# Checks the tests' OBS emulator with Huawei's official SDK. The SDK lives in a virtual environment below BFT2_CACHE.
set -eu
cd "$(dirname "$0")/.."
sdk=esdk-obs-python==3.26.6
venv="${BFT2_CACHE:-$HOME/.cache/bft2}/obs-sdk-venv"
if ! "$venv/bin/python" -c 'import obs' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "$sdk"
fi
BFT2_SDK_PYTHON="$venv/bin/python" cargo test --test obs_sdk -- --nocapture
