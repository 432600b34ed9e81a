"""The cubes on disk: each process writes the planes that it made directly to their place.

In: the description of the cubes (`CubeDescription`), then one plane at a time. Out: one FITS file per product,
``<imagename>.<product>.fits`` with axes RA, DEC, FREQ, STOKES, created at full length (sparse) before the first channel is
imaged. The place of a plane follows from its indices alone, so processes write without knowing of each other and nothing
has to be joined afterwards. Beams that are known only at the end are filled in last.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from gpucube import disk
from gpucube.errors import GpucubeError
from gpucube.output.fits_header import (
    BEAM_ROW,
    CHANNEL_SLOWEST,
    ONE_PIXEL,
    CubeDescription,
    extensions,
    padded,
    primary_header,
)
from gpucube.output.paths import RunPaths
from gpucube.sky.beam import Beam


@dataclass(frozen=True, kw_only=True)
class CubeFile:
    """Where the planes of one product are. A process needs nothing else to write them."""

    path: str
    data_offset: int  # bytes before the first plane, a multiple of the FITS block
    nstokes: int  # the axes of the data, slowest first
    nchan: int
    ny: int
    nx: int
    channel_slowest: bool = False  # whether the first two have changed places

    @property
    def plane_bytes(self) -> int:
        return 4 * self.ny * self.nx

    @property
    def data_end(self) -> int:
        """First byte behind the data and their padding, where the tables begin."""
        return padded(self.data_offset + self.nstokes * self.nchan * self.plane_bytes)

    def plane_offset(self, stokes_index: int, channel: int) -> int:
        """Find the first byte of a plane."""
        if not (0 <= stokes_index < self.nstokes and 0 <= channel < self.nchan):
            raise IndexError(f"plane (stokes {stokes_index}, channel {channel}) is outside {self.path}")
        number = channel * self.nstokes + stokes_index if self.channel_slowest else stokes_index * self.nchan + channel
        return self.data_offset + number * self.plane_bytes


def write_plane(cube: CubeFile, stokes_index: int, channel: int, plane: np.ndarray) -> str:
    """Write one plane, (ny, nx), as float32 to its place; other processes may write meanwhile. Return its `plane_checksum`."""
    if plane.shape != (cube.ny, cube.nx):
        raise ValueError(f"plane of shape {plane.shape} for a cube of {(cube.ny, cube.nx)}")
    offset = cube.plane_offset(stokes_index, channel)
    content = plane.astype(">f4", order="C").reshape(-1).view(np.uint8).data
    with disk.explain(f"cannot write channel {channel} to {cube.path}"):
        disk.write_at(cube.path, content, offset)
    return f"{zlib.crc32(content):08x}"


def plane_checksum(cube: CubeFile, stokes_index: int, channel: int) -> str:
    """Compute the CRC-32 of a plane's bytes in the file: eight hexadecimal digits, or empty if the file is too short."""
    content = disk.read_at(cube.path, cube.plane_bytes, cube.plane_offset(stokes_index, channel))
    return f"{zlib.crc32(content):08x}" if len(content) == cube.plane_bytes else ""


def read_plane(cube: CubeFile, stokes_index: int, channel: int) -> np.ndarray:
    """Read one plane back, float32 (ny, nx). A plane not yet written is all zeros."""
    offset = cube.plane_offset(stokes_index, channel)
    with disk.explain(f"cannot read channel {channel} from {cube.path}"):
        data = np.frombuffer(disk.read_at(cube.path, cube.plane_bytes, offset), ">f4")
    return data.astype(np.float32).reshape(cube.ny, cube.nx)


def sync(cube: CubeFile) -> None:
    """Return when every byte written to the cube, by any process, is on disk."""
    with _explained(cube):
        disk.sync(cube.path)


def create_cubes(
    imagename: str | os.PathLike[str],
    products: Sequence[str],
    description: CubeDescription,
    *,
    overwrite: bool = False,
) -> dict[str, CubeFile]:
    """Create the FITS file of every product (keys of `PRODUCT_UNITS`) at full length, ready for `write_plane`.

    A missing folder is made. `overwrite` replaces all products of this imagename. GpucubeError says if a product exists, the
    folder cannot be written, the disk is too small, or the Stokes parameters are not evenly spaced. Then nothing is left
    behind, and existing products are as they were.
    """
    paths = RunPaths(os.fspath(imagename))
    existing = paths.existing()
    if existing and not overwrite:
        raise GpucubeError(f"{existing[0]} exists: give another `imagename`, or `overwrite=True` to replace it")
    for path in existing:
        if path.is_dir() and not path.is_symlink():
            raise GpucubeError(f"{path} is a folder and cannot be replaced: give another `imagename`")
    heads = {product: primary_header(product, description) for product in products}
    tails = {product: extensions(product, description) for product in products}
    cubes = {
        product: CubeFile(
            path=paths.product(product),
            data_offset=len(head),
            nstokes=len(description.stokes),
            nchan=description.axis.nchan,
            ny=1 if product in ONE_PIXEL else description.geometry.ny,
            nx=1 if product in ONE_PIXEL else description.geometry.nx,
            channel_slowest=product in CHANNEL_SLOWEST,
        )
        for product, head in heads.items()
    }
    needed = sum(cube.data_end + len(tails[product]) for product, cube in cubes.items())
    # under temporary names until all of them exist: a failure must neither leave files behind nor harm the old products
    fresh = {product: f"{cube.path}.new" for product, cube in cubes.items()}
    with disk.folder_made(paths.folder), disk.explain(f"cannot create the products of {imagename}"):
        disk.check_space(paths.folder, needed, "the cubes need", "imagename", sum(map(disk.space_taken, existing)))
        try:
            for product, cube in cubes.items():
                with disk.create(fresh[product]) as file:
                    file.write(heads[product])
                    disk.lengthen(file, cube.data_end)
                    file.seek(cube.data_end)
                    file.write(tails[product])
            for path in existing:
                disk.remove(path)
            for product, cube in cubes.items():
                disk.replace(fresh[product], cube.path)
                fresh[product] = cube.path
        except BaseException:
            for name in fresh.values():
                disk.remove_if_possible(name)
            raise
    return cubes


def write_beams(cube: CubeFile, beams: Sequence[Sequence[Beam | None]]) -> None:
    """Fill in the beams, by Stokes index, then channel: in the BEAMS table, or in the header of a single plane.

    Programs that read cubes do not accept an empty row. So a channel without a beam gets the beam of the nearest
    channel of the same Stokes parameter that has one (the lower channel of two). If there is none, it gets a round
    beam one pixel wide.
    """
    from astropy.io import fits

    with disk.explain(f"cannot read {cube.path}"), disk.open_to_read(cube.path) as file:
        cell = math.radians(abs(fits.Header.fromfile(file)["CDELT2"]))
        pixel = Beam(bmaj=cell, bmin=cell, bpa=0.0)
        if cube.nstokes * cube.nchan == 1:
            write_single_beam(cube, beams[0][0] or pixel)
            return
        file.seek(cube.data_end)
        if fits.Header.fromfile(file)["EXTNAME"] != "BEAMS":
            raise ValueError(f"{cube.path} has no BEAMS table")
        rows_offset = file.tell()
    rows = np.zeros((cube.nstokes, cube.nchan), dtype=BEAM_ROW)
    for index, of_channel in enumerate(beams):
        have = np.flatnonzero([beam is not None for beam in of_channel])
        middles = (have[1:] + have[:-1]) / 2
        for channel, nearest in enumerate(np.searchsorted(middles, np.arange(cube.nchan))):
            beam = of_channel[have[nearest]] if have.size else pixel
            arcsec = math.degrees(beam.bmaj) * 3600, math.degrees(beam.bmin) * 3600
            rows[index, channel] = (*arcsec, math.degrees(beam.bpa), channel, index)
    with _explained(cube):
        disk.write_at(cube.path, rows.tobytes(), rows_offset)


def write_single_beam(cube: CubeFile, beam: Beam) -> None:
    """Put the beam of all planes into the BMAJ, BMIN and BPA cards that the cube was created with."""
    from astropy.io import fits

    with disk.explain(f"cannot read {cube.path}"):
        header = disk.read_at(cube.path, cube.data_offset, 0)
    for key, angle in (("BMAJ", beam.bmaj), ("BMIN", beam.bmin), ("BPA", beam.bpa)):
        place = next(at for at in range(0, len(header), 80) if header.startswith(f"{key:<8}= ".encode(), at))
        comment = fits.Card.fromstring(header[place : place + 80]).comment
        with _explained(cube):
            disk.write_at(cube.path, fits.Card(key, math.degrees(angle), comment).image.encode("ascii"), place)


def _explained(cube: CubeFile) -> AbstractContextManager[None]:
    return disk.explain(f"cannot write {cube.path}")
