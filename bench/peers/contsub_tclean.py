"""Continuum-subtracted cubes of CASA, as a reference for `bench/peers/compare_contsub.py`.

    CASA_PYTHON bench/peers/contsub_tclean.py FOLDER        # uvcontsub and tclean for every case, FOLDER/NAME.npz each

A case without `contsubspw` is imaged as it is. uvcontsub writes a new MeasurementSet for each, which is removed afterwards.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from casatasks import uvcontsub
from frames_tclean import image_case


def subtracted(case: dict, folder: Path) -> list[str]:
    """MeasurementSets of a case without their continuum."""
    text, order = case["contsub"]
    if not text:
        return case["vis"]
    found = []
    for number, vis in enumerate(case["vis"]):
        out = folder / "contsub" / f"{case['name']}.{number}.ms"
        out.parent.mkdir(exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        uvcontsub(vis=vis, outputvis=str(out), fitspec=text, fitorder=order, datacolumn="data")
        print(f"uvcontsub {case['name']} {time.perf_counter() - begun:.2f} s", flush=True)
        found.append(str(out))
    return found


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for one in json.loads((here / "cases.json").read_text()):
        vis = subtracted(one, here)
        image_case(one | {"vis": vis}, here)
        shutil.rmtree(here / "contsub", ignore_errors=True)
