"""Write the CASA images of one tclean run as FITS, so that programs without CASA can read them.

In: an image name, for instance out/tclean. Out: out/tclean.residual.fits, out/tclean.psf.fits ... for every kind that
exists; cubes are float32 [stokes, channel, y, x], sumwt is [stokes, channel, 1, 1]. It runs with the CASA python made by
setup_peers.sh.

    CASA_PYTHON bench/peers/export_tclean.py out/tclean [out/tclean_dirty ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run_tclean import configure_casa

KINDS = ("image", "residual", "model", "psf", "sumwt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagename", nargs="+")
    names = parser.parse_args().imagename
    configure_casa(Path(f"{names[0]}.export.log"))
    import casatasks

    for name in names:
        for kind in KINDS:
            if Path(f"{name}.{kind}").is_dir():
                casatasks.exportfits(f"{name}.{kind}", f"{name}.{kind}.fits", overwrite=True)


if __name__ == "__main__":
    main()
