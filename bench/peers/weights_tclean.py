"""PSFs and sums of weights of tclean, as a reference for `bench/peers/compare_weights.py`.

CASA_PYTHON bench/peers/weights_tclean.py FOLDER        # every case of weights.json, FOLDER/NAME.npz each
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

    for case in json.loads((folder / "weights.json").read_text()):
        out = folder / case["name"]
        for product in folder.glob(f"{case['name']}.*"):
            shutil.rmtree(product) if product.is_dir() else product.unlink()
        parameters = {"specmode": "cube", "niter": 0, "pblimit": -0.2, "datacolumn": "data", "gridder": "standard"}
        parameters |= {"outframe": "LSRK", "restoration": False, "imsize": case["imsize"], "cell": case["cell"]}
        tclean(vis=case["ms"], imagename=str(out), **(parameters | case["parameters"]))
        psf, weights = image(), image()
        psf.open(f"{out}.psf")
        weights.open(f"{out}.sumwt")
        np.savez(
            folder / f"{case['name']}.npz",
            psf=psf.getchunk()[:, :, 0, :].transpose(2, 1, 0).astype(np.float32),  # (nchan, ny, nx)
            sumwt=np.ravel(weights.getchunk()),
        )
        psf.close()
        weights.close()
        for product in folder.glob(f"{case['name']}.*"):
            if product.is_dir():
                shutil.rmtree(product)


if __name__ == "__main__":
    main()
