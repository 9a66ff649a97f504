#!/usr/bin/env bash
# Record launches of several engines in turns on one machine, so that its drift falls on all of them alike:
#     benchmarks/record_in_turns.sh TURNS RECORDINGS LABEL=PYTHON [LABEL=PYTHON ...] [-- PYTEST-OPTIONS]
# as in
#     benchmarks/record_in_turns.sh 3 recordings/h100-sxm-80gb vllm-0.20.2=/venvs/old/bin/python vllm-0.25.1=/venvs/new/bin/python
set -euo pipefail
turns=$1 recordings=$2
shift 2
engines=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    engines+=("$1")
    shift
done
[ $# -eq 0 ] || shift
for turn in $(seq "$turns"); do
    for engine in "${engines[@]}"; do
        echo "== turn $turn of $turns: ${engine%%=*}"
        # Cells without a baseline fail; their recordings are kept all the same.
        python3 -m pytest suites --energy-launches 1 --energy-record "$recordings/${engine%%=*}" --energy-python "${engine#*=}" "$@" || true
    done
done
