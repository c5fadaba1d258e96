#!/usr/bin/env bash
# Everything that wants a GPU, in parts that can be run alone and again. How long each takes is in
# $OUT/PART.done; none has run yet, so plan for several goes, and give the parts that matter first.
#
#   OUT=results benchmarks/on_gpu.sh            # all parts, in order of worth
#   OUT=results benchmarks/on_gpu.sh tests step # some
#
# tests      the tests marked gpu
# step       the optimizer step, plain and fused, against geoopt
# training   the step as a share of a training step
# throughput subjects per hour: packed, single, a process each
# memory     of subjects packed into one process, against a process each
# checkpoints what they cost within a training
# schedules  when to stop, on the miniature
# recipe     the miniature from nothing, at its GPU size; its weights go to $OUT/weights.tar
# evaluate   does it personalize? on those weights
#
# A part that ended well leaves $OUT/PART.done and is not run again. Needs torch with CUDA, and the
# packages of pyproject.toml on the path.
set -uo pipefail
OUT=${OUT:-gpu-results}
WORK=${WORK:-$OUT/work}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK"
export PYTHONUNBUFFERED=1 PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}

tests()    { "$PYTHON" -m pytest -m gpu; }
step()     { "$PYTHON" benchmarks/step.py --json "$OUT/step.json"; }
training() { "$PYTHON" benchmarks/training.py --json "$OUT/training.json"; }
throughput() { "$PYTHON" benchmarks/throughput.py --json "$OUT/throughput.json"; }
memory()   { "$PYTHON" benchmarks/memory.py --json "$OUT/memory.json"; }
schedules() {
  "$PYTHON" benchmarks/schedules.py --work "$WORK/schedules" --json "$OUT/schedules.json"
}
checkpoints() { "$PYTHON" benchmarks/checkpoints.py --json "$OUT/checkpoints.json"; }
recipe()   {
  "$PYTHON" -m dti_engine.miniature.recipe --size gpu --work "$WORK" --out "$WORK/weights" &&
    tar -C "$WORK" -cf "$OUT/weights.tar" weights
}
evaluate() {
  "$PYTHON" -m dti_engine evaluate --backbone "$WORK/weights" --output "$WORK/evaluation" &&
    cp "$WORK"/evaluation/results.json "$OUT/evaluation.json"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null | tee "$OUT/gpu.txt"
failed=0
for part in "${@:-tests step training throughput memory checkpoints recipe evaluate schedules}"; do
  for each in $part; do
    [ -e "$OUT/$each.done" ] && { echo "== $each: done before"; continue; }
    echo "== $each"
    began=$SECONDS
    if "$each" 2>&1 | tee "$OUT/$each.log"; then
      echo "$((SECONDS - began)) s" >"$OUT/$each.done"
    else
      echo "== $each failed, see $OUT/$each.log" && failed=1
    fi
  done
done
exit "$failed"
