#!/usr/bin/env bash
# Download what a bare GPU machine lacks (it has Python, numpy, scipy, numba, psutil, PyYAML, CuPy, no network), about 55 MiB:
#
#     bash bench/gpu/wheels.sh .whl [3.12]                  # a folder, and the Python version there
set -e
folder=${1:?which folder?} version=${2:-3.12}
platforms=$(for n in 2_28 2_27 2_24 2_17 2014 1; do echo "--platform manylinux${n/#2_/_2_}_x86_64"; done)
# shellcheck disable=SC2086
"${PYTHON:-python3}" -m pip download -q --only-binary=:all: --implementation cp --python-version "$version" $platforms \
    -d "$folder" 'pydantic>=2.10' 'ducc0>=0.42' 'astropy>=7.0' 'pytest>=9.0' 'python-casacore>=3.7.1'
rm -f "$folder"/numpy-*
# tables of the Earth's motion, which gpucube takes from astropy
"${PYTHON:-python3}" - "$folder" <<'PY'
import os, pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("python_casacore-*.whl"):
    slim = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if not item.filename.startswith("casacore/data/"):
                new.writestr(item, old.read(item))
    os.replace(slim, wheel)
PY
du -sh "$folder"
