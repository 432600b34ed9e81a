#!/bin/sh
# Install the programs gpucube is compared with:  sh bench/peers/setup_peers.sh [FOLDER]   (default ./peers; about 1 minute, 2 GB).
# Leaves FOLDER/casa/bin/python (CASA tasks) and, from Debian or Ubuntu, `wsclean` on the PATH.
# Needs root for apt-get and a Python 3.11 or 3.12 as $PYTHON (there are no CASA wheels for every version).
set -eu
folder=${1:-peers}
python=${PYTHON:-python3.11}
mkdir -p "$folder"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wsclean casacore-data
# casadata brings the measures tables, so that nothing is downloaded at run time;
# casatasks imports six without declaring it.
"$python" -m venv "$folder/casa"
"$folder/casa/bin/pip" install -q casatools==6.7.0.31 casatasks==6.7.0.31 casadata six
"$folder/casa/bin/pip" list 2>/dev/null | grep -i '^casa'
wsclean --version | grep -i version
