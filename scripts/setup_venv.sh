# Sourced by run_tests.sh and mpirun_example.sh: a virtual environment with lopt and the given extras in it.
# LOPT_VENV is its directory (default .venv), LOPT_PYTHON the Python that makes it (default python3, 3.11 or newer).

setup_venv() {
    local extras=$1 python=${LOPT_PYTHON:-python3}
    venv=${LOPT_VENV:-$PWD/.venv}
    if [ ! -x "$venv/bin/python" ]; then
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "lopt needs Python 3.11 or newer; '$python' is not. Set LOPT_PYTHON." >&2
            return 2
        fi
        echo "making a virtual environment in $venv"
        "$python" -m venv "$venv" || return 1
    fi
    echo "installing lopt[$extras]"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" || return 1
    PATH=$venv/bin:$PATH
    mpirun=${LOPT_MPIRUN:-$venv/bin/mpirun}
}
