#!/usr/bin/env bash
# Makes the environment, checks the code and runs the tests. `scripts/test.sh unit` runs the quick tests alone; other
# arguments go to pytest: ./scripts/test.sh tests/privacy -k noise
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment test

"$PY" -m ruff check src tests benchmarks scripts
"$PY" -m ruff format --check src tests benchmarks scripts
[ "${1:-}" = unit ] && { shift; set -- -m unit "$@"; }
"$PY" -m basedpyright --pythonpath "$PY"
exec "$PY" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
