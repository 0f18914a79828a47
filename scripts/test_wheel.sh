#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment and takes captions through the line from an empty folder.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=uv
command -v uv >/dev/null 2>&1 || uv="$root/.uv/bin/uv"
"$uv" build --quiet --wheel --out-dir "$work" "$root"
"$uv" export --quiet --project "$root" --frozen --no-dev --no-emit-project --extra diffusion --extra clip >"$work/locked.txt"
"$uv" venv --quiet --python "$root/.venv/bin/python" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" -r "$work/locked.txt" "$work"/synthvlm-*.whl
mkdir "$work/empty"
cd "$work/empty"
unset PYTHONPATH
synthvlm="$work/env/bin/synthvlm"
"$synthvlm" plugins | tee plugins.txt
if grep '^broken' plugins.txt; then exit 1; fi
# No package of a general name may come with it.
"$work/env/bin/python" - <<'PY'
import importlib.metadata

tops = {str(f).split("/")[0] for f in importlib.metadata.files("synthvlm")}
assert not tops & {"utils", "plugins", "tests", "prompts", "examples", "bench"}, tops
PY
"$synthvlm" synth --out run --limit 2 --repeat 2 --top all
test -s run/exports/llava/llava.json || { find run/exports; exit 1; }
echo "wheel: ok"
