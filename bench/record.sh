#!/bin/sh
# Record what gpucube does on this machine into bench/results, as Markdown: some fifteen minutes on two cores.
# In: a name for the machine, e.g. epyc-2core. Run it where nothing else runs.
#
#     sh bench/record.sh MACHINE [PYTHON]
set -eu
machine=${1:?"usage: sh bench/record.sh MACHINE [PYTHON]"}
python=${2:-python}
cd "$(dirname "$0")/.."
date=$(date +%Y-%m-%d)
mkdir -p out

record() {
    name=bench/results/$date-$1-$machine.md
    shift
    echo "$name"
    "$python" "$@" > "$name"
}

record stages-vla-hi -m gpucube.bench --json out/vla-hi.json
record stages-vla-hi-again -m gpucube.bench --compare out/vla-hi.json
for workload in alma-line meerkat-hi one-bright all-bright snapshot; do
    record "stages-$workload" -m gpucube.bench --workload "$workload"
done
record stages-huge-image -m gpucube.bench --workload huge-image --repeat 1 --seconds 120
record convergence bench/experiments/convergence.py
record scaling bench/experiments/scaling.py
record one-hard-channel bench/experiments/one_hard_channel.py
