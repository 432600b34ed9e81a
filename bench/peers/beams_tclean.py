"""Primary beams of tclean, as a reference for `bench/peers/compare_beams.py`.

CASA_PYTHON bench/peers/beams_tclean.py FOLDER        # the .pb of every case of beams.json, FOLDER/NAME.pb.npy each
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from run_tclean import configure_casa


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    configure_casa(folder / "casa.log")
    from casatasks import tclean
    from casatools import image

    for case in json.loads((folder / "beams.json").read_text()):
        out = folder / case["name"]
        for product in folder.glob(f"{case['name']}.*"):
            if product.is_dir() and product.suffix != ".ms":
                shutil.rmtree(product)
        parameters = {"imsize": [128], "cell": [case["cell"]], "specmode": "cube", "niter": 0, "pblimit": -1e-3}
        parameters |= {"restoration": False, "datacolumn": "data", "gridder": "standard"}
        tclean(vis=case["ms"], imagename=str(out), **(parameters | case["parameters"]))
        cube = image()
        cube.open(f"{out}.pb")
        np.save(f"{out}.pb.npy", cube.getchunk()[:, :, 0, :].transpose(2, 1, 0).astype(np.float32))  # (nchan, ny, nx)
        cube.close()
        for product in folder.glob(f"{case['name']}.*"):
            if product.is_dir() and product.suffix != ".ms":
                shutil.rmtree(product)


if __name__ == "__main__":
    main()
