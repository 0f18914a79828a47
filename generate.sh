#!/usr/bin/env bash
# Sets itself up the first time, then makes image-caption pairs; the model's kind decides in which direction:
#   bash generate.sh                                                  both, on the captions that ship with it, by miniature models
#   bash generate.sh --model sdxl --input my.json --out runs/x        your captions → images, by Stable Diffusion XL
#   bash generate.sh --model internvl2 --input images.json --out …    your images → captions, by InternVL2
# Everything after the name is passed to `synthvlm synth` or `synthvlm recaption`. Running it again resumes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/scripts/environment.sh"
environment "$root" diffusion clip transformers || { echo "The environment could not be made; the lines above say why. It is safe to run this again." >&2; exit 1; }
exec "$root/.venv/bin/synthvlm" make "$@"
