#!/usr/bin/env bash
# Runs the benchmarks that need a GPU, in parts that can be run alone and repeated. $OUT/PART.done
# says how long a part took. No part has run on a GPU yet, so plan for several tries.
#
#   OUT=results benchmarks/on_gpu.sh            # all parts, the most important first
#   OUT=results benchmarks/on_gpu.sh tests step # some parts
#
# sdxl        subjects of SDXL at 768 px: the engine against a plain loop
# tests       the tests marked gpu
# images      images per second of SDXL and Stable Diffusion 1.5, against diffusers' pipeline
# generating  continuous batching: joining, overload and mixes of SDXL and SD 1.5; the dependence on
#             neighbours; the miniature through the service
# subjects    as sdxl: SDXL at 1024 px, Stable Diffusion 1.5, SANA
# step        the optimizer step, plain and fused, against geoopt
# compiled    as sdxl, with a compiled denoiser as well
# text        encoding of prompts with Gemma 2 at its full size
# work        operations of a sample, counted; `subjects` compares times with them
# training    the optimizer's share of a training step
# throughput  subjects per hour: packed, single, a process each
# memory      memory of subjects packed into one process, against a process each
# checkpoints the cost of checkpoints in a training run
# schedules   training schedules and early stopping, on the miniature
# recipe      training of the miniature at its GPU size; its weights go to $OUT/weights.tar
# evaluate    the evaluation of those weights
#
# A part that succeeded leaves $OUT/PART.done and is not run again. A part that compares models writes
# its file after each model, so that a part cut short has results. It needs torch with CUDA, and the
# packages of pyproject.toml on the path; an unpacked wheel in a folder of PYTHONPATH is enough.
set -uo pipefail
OUT=${OUT:-gpu-results}
WORK=${WORK:-$OUT/work}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK"
export PYTHONUNBUFFERED=1 PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}

subjects_of() { "$PYTHON" -m benchmarks.training.subjects --repeats 3 "$@"; }
images_of() { "$PYTHON" -m benchmarks.generation.images --repeats 2 "$@"; }

sdxl()     { subjects_of --models sdxl --sides 768 --json "$OUT/sdxl.json"; }
tests()    { "$PYTHON" -m pytest -m gpu; }
images() {
  images_of --models sdxl --steps 10 --batches 1 4 16 --json "$OUT/images-sdxl.json" &&
    images_of --models sd15 --batches 1 8 64 --json "$OUT/images-sd15.json"
}
generating() {
  "$PYTHON" -m benchmarks.generation.neighbours --models miniature sd15 sdxl \
    --json "$OUT/generating-neighbours.json" &&
    "$PYTHON" -m benchmarks.generation.continuous_batching --models sdxl sd15 --rounds 2 --json "$OUT/generating.json"
}
subjects() {
  subjects_of --models sd15 sana-1.6b --json "$OUT/subjects.json" &&
    subjects_of --models sdxl --sides 1024 --json "$OUT/subjects-sdxl-1024.json"
}
compiled() { subjects_of --models sdxl --sides 768 --compile --json "$OUT/compiled.json"; }
text()     { "$PYTHON" -m benchmarks.training.text_encoding --full --json "$OUT/text.json"; }
work()     { "$PYTHON" -m benchmarks.training.operations --json "$OUT/work.json"; }
step()     { "$PYTHON" -m benchmarks.training.rsgd_step --json "$OUT/step.json"; }
training() { "$PYTHON" -m benchmarks.training.optimizer_share --json "$OUT/training.json"; }
throughput() { "$PYTHON" -m benchmarks.training.throughput --json "$OUT/throughput.json"; }
memory()   { "$PYTHON" -m benchmarks.training.memory --json "$OUT/memory.json"; }
schedules() {
  "$PYTHON" -m benchmarks.training.schedules --work "$WORK/schedules" --json "$OUT/schedules.json"
}
checkpoints() { "$PYTHON" -m benchmarks.training.checkpoints --json "$OUT/checkpoints.json"; }
recipe()   {
  "$PYTHON" -m dti_engine.miniature.recipe --size gpu --work "$WORK" --out "$WORK/weights" &&
    tar -C "$WORK" -cf "$OUT/weights.tar" weights
}
evaluate() {
  "$PYTHON" -m dti_engine evaluate miniature --model "$WORK/weights" --output "$WORK/evaluation" &&
    cp "$WORK"/evaluation/results.json "$OUT/evaluation.json"
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null | tee "$OUT/gpu.txt"
failed=0
all="sdxl tests images generating subjects step compiled text work training throughput memory checkpoints"
for part in "${@:-$all recipe evaluate schedules}"; do
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
