#!/bin/sh
# Everything about the GPU in one call, under 9 minutes: install, compare with the CPU, measure, sanitise, profile.
#   scripts/gpu_check.sh OUT_DIRECTORY
# Writes gpu_check.h5 (runs of both devices; figures in its provenance) and one log a stage.
# Exit code: 0 if all comparisons hold and the sanitizer found nothing.
set -eu
[ $# -eq 1 ] || { echo "usage: scripts/gpu_check.sh OUT_DIRECTORY" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
export OPENBLAS_NUM_THREADS=1 NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$out/numba_cache}"
cd "$root"

if ! "$python" -c "import numba_cuda, lopt" 2>"$out/install.log"; then
    "$python" -m venv --system-site-packages "$out/venv"
    python="$out/venv/bin/python"
    timeout 120 "$python" -m pip install --quiet -e ".[cuda]" >"$out/install.log" 2>&1
fi
status=0
timeout 300 "$python" -u -m lopt.gpu_check "$out/gpu_check.h5" 2>&1 | tee "$out/check.log"
tail -n 1 "$out/check.log" | grep -q "all comparisons hold" || status=1

# A rollout small enough for the tools, which slow it down a hundredfold.
small="import lopt; print(lopt.rollout(lopt.task('quadratic', dims=50), lopt.optimizer('adafac_mlp'), steps=5, device='cuda').status)"
if command -v compute-sanitizer >/dev/null; then
    timeout 60 compute-sanitizer --error-exitcode 9 "$python" -c "$small" >"$out/sanitizer.log" 2>&1 || status=1
    tail -n 3 "$out/sanitizer.log"
else
    echo "compute-sanitizer is not installed: not checked"
fi
if command -v ncu >/dev/null; then
    timeout 60 ncu --set basic --launch-count 1 "$python" -c "$small" >"$out/ncu.log" 2>&1 || echo "ncu failed, see ncu.log"
    tail -n 30 "$out/ncu.log"
else
    echo "ncu is not installed: no profile"
fi
exit $status
