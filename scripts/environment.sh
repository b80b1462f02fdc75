# Sourced by the other scripts: makes .venv in the checkout once and names its Python $PY. Remade when the pins change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUNBUFFERED=1
export UV_SYSTEM_CERTS=1 # trust what the machine trusts: hospitals often sit behind a proxy of their own
PY="$PWD/.venv/bin/python"

make_environment() {
    local base="${PYTHON:-python3}" extras="$1" wanted
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
    wanted="$extras $(cat pyproject.toml constraints.txt | "$base" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    [ -x "$PY" ] && [ "$(cat .venv/.made-from 2>/dev/null)" = "$wanted" ] && return
    echo "making the environment in .venv (once; about 4 GB with the GPU libraries of torch)"
    "$base" -m venv .venv
    # compiled now, as pip does: without it, each start of a process in a read-only environment compiles all it imports
    if "$PY" -m pip install --quiet uv &&
        "$PY" -m uv pip install --quiet --compile-bytecode --python "$PY" -c constraints.txt -e ".[$extras]"; then
        :
    else
        echo "uv did not do; going on with pip"
        "$PY" -m pip install --quiet -c constraints.txt -e ".[$extras]"
    fi
    echo "$wanted" > .venv/.made-from
}
