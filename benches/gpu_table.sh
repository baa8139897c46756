#!/usr/bin/env bash
# The table of a GPU, in one command: bash benches/gpu_table.sh [FOLDER]
#
# Comes in: a machine with an NVIDIA GPU, on which `make setup` has run. Goes out, in FOLDER
# (benches/results by default): the memory that each model takes, the figures of our server and of
# vLLM's own in turns at 1, 8, 64 and 256 streams, the share of what the memory's bandwidth allows,
# and one table of all. Models: the embedded student, and random ones of the shapes of Qwen3-4B and
# Llama-3.1-8B, each in bf16 and in 4 bits; their answers are noise, and last as long as is asked.
#
#   --print            only shows what would be run
#   MODELS=...         some of: student-bf16 student-w4a16 4b-bf16 4b-w4a16 8b-bf16 8b-w4a16
#   STREAMS=1,8        other levels
#   INPUT=512 OUTPUT=128 ROUNDS=1 PROFILE=balanced SERVERS=senryu,vllm
#   PYTHON=python3     where senryu is installed; .venv/bin/python by default
#
# Budget 45 minutes, most of it starting engines; MODELS= makes it shorter. Tried on a machine
# without a GPU only as far as --print and the models go.
set -euo pipefail
cd "$(dirname "$0")/.."

dry=
[ "${1:-}" = --print ] && { dry=1; shift; }
out=${1:-benches/results}
python=${PYTHON:-.venv/bin/python}
models=${MODELS:-student-bf16 student-w4a16 4b-bf16 4b-w4a16 8b-bf16 8b-w4a16}
streams=${STREAMS:-1,8,64,256}
scratch=${SCRATCH:-${TMPDIR:-/tmp}/senryu-gpu-table}
export SENRYU_PROFILE=${PROFILE:-balanced} SENRYU_DEVICE=gpu

run() {
    echo "+ $*" >&2
    [ -n "$dry" ] || "$@"
}

# The folder of a model, made where it is not there yet; two words: shape and scheme.
folder_of() {
    case $1 in
        student) run "$python" -m senryu.quant embedded --scheme "$2" | tail -n 1 ;;
        *) [ -e "$scratch/$1-$2/config.json" ] ||
            run "$python" -m senryu.benches.shapes "$1" "$2" "$scratch/$1-$2" >&2
           echo "$scratch/$1-$2" ;;
    esac
}

[ -n "$dry" ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
run mkdir -p "$out" "$scratch"
for model in $models; do
    folder=$(folder_of "${model%-*}" "${model##*-}")
    echo "== $model" >&2
    run "$python" -m senryu.benches.beside --model "${folder:-$model}" \
        --servers "${SERVERS:-senryu,vllm}" --concurrency "$streams" \
        --input "${INPUT:-512}" --output "${OUTPUT:-128}" --rounds "${ROUNDS:-1}" \
        --results "$out/$model" || echo "$model could not be measured in full" >&2
    case $model in 4b-*|8b-*) run rm -r "$scratch/$model" ;; esac  # 16 GB, and disks are small
done
run "$python" -m senryu.benches.gpu_table "$out" $models
