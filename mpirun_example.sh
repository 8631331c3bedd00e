#!/usr/bin/env bash
# Meta-train the hierarchical optimizer on 8x8 digits with two MPI ranks, compare it with tuned baselines, draw it.
#
#   LOPT_RANKS    MPI ranks (2)                LOPT_MINUTES  meta-training after compilation (3): 360 outer steps a
#                 minute, about what two ranks of an ordinary computer make; stopped after twice the minutes
#   LOPT_OUT      directory of the run         LOPT_MPIRUN   an mpirun of your own
#   LOPT_STEPS    inner steps of the evaluation (100)        LOPT_SEEDS  its starting points (5)
#   LOPT_VENV, LOPT_PYTHON: see scripts/setup_venv.sh
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup_venv.sh
setup_venv mpi

out=${LOPT_OUT:-runs/digits}
if [ -e "$out" ]; then
    echo "$out exists; choose another directory with LOPT_OUT, or go on with: lopt train ... --out $out --resume" >&2
    exit 2
fi
ranks=${LOPT_RANKS:-2}
steps=${LOPT_STEPS:-100}
minutes=${LOPT_MINUTES:-3}
outer_steps=$(awk "BEGIN { print int(360 * $minutes + 1) }")
tasks='mlp:data=digits,hidden=[32],batch_size=64'

"$mpirun" -n "$ranks" lopt train --config experiments/01_digits/config.toml --out "$out" \
    --set "train.outer_steps=$outer_steps" --set "train.minutes=$(awk "BEGIN { print 2 * $minutes }")"
"$mpirun" -n "$ranks" lopt eval --weights "$out/weights.h5" --tasks "$tasks" --steps "$steps" \
    --seeds "${LOPT_SEEDS:-5}" --baselines adam,momentum,rmsprop --out "$out/eval.h5" | tee "$out/eval.txt"
lopt plot "$out/run.h5" >/dev/null
lopt plot "$out/eval.h5" >/dev/null

echo
echo "weights   $out/weights.h5"
echo "data      $out/run.h5 $out/eval.h5"
echo "pictures  $(ls "$out"/*.png | tr '\n' ' ')"
tail -n 1 "$out/eval.txt"
