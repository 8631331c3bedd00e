#!/usr/bin/env bash
# Install lopt with its test tools into a virtual environment and run the whole test suite.
# Arguments go to pytest.  LOPT_VENV, LOPT_PYTHON: see scripts/setup_venv.sh.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup_venv.sh
setup_venv mpi,test
# Two workers, a test file on one of them: kernels are compiled once.
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
