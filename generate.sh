#!/usr/bin/env bash
# Sets itself up the first time, then makes image-caption pairs:
#   bash generate.sh                                              the captions that ship with it, the miniature model
#   bash generate.sh --model sdxl --input my.json --out runs/x    your captions, Stable Diffusion XL
# Everything after the name is passed to `synthvlm synth` (bash generate.sh --help lists it). Running it again resumes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/environment.sh"
environment "$root" diffusion clip || { echo "The environment could not be made; the lines above say why. It is safe to run this again." >&2; exit 1; }
exec "$root/.venv/bin/synthvlm" synth "$@"
