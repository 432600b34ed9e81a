#!/bin/sh
# Simulate the benchmark MeasurementSets, each with its truth beside it:  sh bench/make_ms.sh [FOLDER] [small|medium|alma ...]
# Default: ./bench-data, all three (about 600 MB). PYTHON names the interpreter that has gpucube.
set -eu
folder=${1:-bench-data}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- small medium alma
python=${PYTHON:-python3}
mkdir -p "$folder"
for preset in "$@"; do
    case $preset in
    small) options="--array vla-d --ntime 144 --imsize 256 --cell 10arcsec" ;;
    medium) options="--array vla-c --ntime 570 --imsize 512 --cell 4arcsec" ;;
    alma) options="--array alma --ntime 56 --imsize 256 --cell 0.15arcsec --track-hours 1" ;;
    *)
        echo "make_ms.sh: no preset '$preset'; there are small, medium and alma" >&2
        exit 2
        ;;
    esac
    # shellcheck disable=SC2086
    "$python" -m gpucube simulate "$folder/$preset.ms" $options
done
