#!/usr/bin/env bash
# Makes the environment and runs the tests. Arguments go to pytest: ./scripts/test.sh tests/privacy -k noise
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment test

"$PY" -m ruff check src tests benchmarks scripts
"$PY" -m ruff format --check src tests benchmarks scripts
exec "$PY" -m pytest -n 2 --dist loadfile "$@"
