#!/bin/sh
# Record what `python -m gpucube.bench` measures into bench/results, as JSON and Markdown: some fifteen minutes on two cores.
# In: a name for the machine, e.g. epyc-2core. Run it where nothing else runs.
#
#     sh bench/record.sh MACHINE [PYTHON]
set -eu
machine=${1:?"usage: sh bench/record.sh MACHINE [PYTHON]"}
python=${2:-python}
cd "$(dirname "$0")/.."
date=$(date +%Y-%m-%d)

record() {
    name=bench/results/$date-$1-$machine
    shift
    echo "$name"
    "$python" -m gpucube.bench "$@" --json "$name.json" > "$name.md"
}

record stages-vla-hi
record stages-vla-hi-again --compare "bench/results/$date-stages-vla-hi-$machine.json"
for workload in alma-line meerkat-hi one-bright all-bright snapshot; do
    record "stages-$workload" --workload "$workload"
done
record stages-huge-image --workload huge-image --repeat 1 --seconds 120
record convergence convergence
record scaling scaling
