"""The cube on disk is standard FITS, every plane lies in its place, and nothing half-made stays behind.

Oracles: astropy's FITS verification and WCS, spectral_cube, and a SIN projection written here with unit vectors.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import pickle
import resource
import warnings
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import ArrayLike
from radio_beam import Beam as RadioBeam
from spectral_cube import SpectralCube, VaryingResolutionSpectralCube

from gpucube.constants import ARCSEC
from gpucube.data.observation import Observation
from gpucube.errors import GpucubeError
from gpucube.output.fits_cube import (
    CubeFile,
    create_cubes,
    read_plane,
    sync,
    write_beams,
    write_plane,
    write_single_beam,
)
from gpucube.output.fits_header import PRODUCT_UNITS, CubeDescription
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

GEOMETRY = ImageGeometry(
    nx=32, ny=24, cell_x=1.5 * ARCSEC, cell_y=2 * ARCSEC, centre=Direction(ra=math.radians(-100), dec=math.radians(-35))
)
RISING = 86e9 + 1e5 * np.arange(5)


def make_axis(frequency: ArrayLike = RISING, frame: str = "LSRK", restfreq: float | None = 86.243e9) -> SpectralAxis:
    frequency = np.asarray(frequency, dtype=float)
    return SpectralAxis(
        frequency=frequency, width=np.full(frequency.shape, 1e5), frame=FRAMES[frame], restfreq=restfreq
    )


def describe(axis: SpectralAxis | None = None, geometry: ImageGeometry = GEOMETRY, **changes: Any) -> CubeDescription:
    return CubeDescription(geometry=geometry, axis=axis or make_axis(), **changes)


def make_beams(nstokes: int, nchan: int) -> list[list[Beam]]:
    """Beams that are different for every channel and Stokes plane."""
    return [
        [Beam(bmaj=(4 + 0.1 * c + s) * ARCSEC, bmin=3 * ARCSEC, bpa=math.radians(10 * s - c)) for c in range(nchan)]
        for s in range(nstokes)
    ]


def numbered_plane(stokes_index: int, channel: int) -> np.ndarray:
    """A plane whose pixel values no other plane has."""
    size = GEOMETRY.ny * GEOMETRY.nx
    start = (stokes_index * 100 + channel) * size
    return np.arange(start, start + size, dtype=np.float32).reshape(GEOMETRY.shape)


def read_spectral_cube(path: str) -> SpectralCube:
    """The cube as spectral_cube sees it; its warning that it returns only the first Stokes plane is ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpectralCube.read(path)


@pytest.mark.parametrize("product", [name for name in PRODUCT_UNITS if name not in ("sumwt", "startmodel")])
def test_every_product_is_standard_fits_with_its_unit_and_its_beams(tmp_path: Path, product: str) -> None:
    axis = make_axis()
    cube = create_cubes(
        tmp_path / "out",
        [product],
        describe(
            axis,
            history=("niter=10",),
            object_name="DM Tau",
            observation=Observation(
                telescopes=("ALMA",),
                observers=("O'Brien",),
                begin=86400 * Time("2024-03-02T05:49:24.857").mjd,
                end=86400 * Time("2024-03-02T06:49:24.857").mjd,
            ),
        ),
    )[product]
    for channel in range(axis.nchan):
        write_plane(cube, 0, channel, numbered_plane(0, channel))
    has_table = product not in ("model", "mask", "pb")
    if has_table:
        write_beams(cube, make_beams(1, axis.nchan))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(cube.path) as hdus:
            hdus.verify("exception")
            header = hdus[0].header
            assert [hdu.name for hdu in hdus] == (["PRIMARY", "BEAMS"] if has_table else ["PRIMARY"])
            assert header.get("CASAMBM", False) is has_table
            assert "BMAJ" not in header
            assert header["BUNIT"] == PRODUCT_UNITS[product]
            assert [header[f"CTYPE{i}"] for i in (1, 2, 3, 4)] == ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"]
            assert (header["OBJECT"], header["TELESCOP"], header["OBSERVER"]) == ("DM Tau", "ALMA", "O'Brien")
            assert (header["SPECSYS"], header["VELREF"], header["RESTFRQ"]) == ("LSRK", 257, 86.243e9)
            assert (header["RADESYS"], header["EQUINOX"]) == ("FK5", 2000.0)
            assert (header["DATE-OBS"], header["TIMESYS"]) == ("2024-03-02T05:49:24.857", "UTC")
            assert hdus[0].data.shape == (1, 5, 24, 32)
            assert np.array_equal(hdus[0].data[0, 3], numbered_plane(0, 3))
        WCS(header)  # any remark of the WCS library about the header is an error here


def test_unwritten_planes_take_no_disk_space(tmp_path: Path) -> None:
    big = ImageGeometry(nx=2048, ny=2048, cell_x=ARCSEC, cell_y=ARCSEC, centre=Direction(ra=0.0, dec=0.0))
    cube = create_cubes(tmp_path / "out", ["image"], describe(geometry=big))["image"]
    status = (tmp_path / "out.image.fits").stat()
    assert status.st_size > 5 * cube.plane_bytes
    # a header and a table; the file system counts in pages
    assert 512 * status.st_blocks < 100_000


@pytest.mark.parametrize(("radesys", "equinox"), [("FK5", "J2000"), ("FK4", "B1950"), ("ICRS", None)])
def test_the_header_names_the_celestial_frame(tmp_path: Path, radesys: str, equinox: str | None) -> None:
    geometry = replace(GEOMETRY, centre=replace(GEOMETRY.centre, frame=radesys))
    create_cubes(tmp_path / "out", ["image"], describe(geometry=geometry))
    frame = wcs_to_celestial_frame(WCS(fits.getheader(tmp_path / "out.image.fits")))
    assert frame.name == radesys.lower()
    assert equinox is None or frame.equinox == Time(equinox)


@pytest.mark.parametrize("radesys", ["FK5", "ICRS"])
def test_pixels_lie_where_the_sine_projection_puts_them(tmp_path: Path, radesys: str) -> None:
    """The header's WCS against unit vectors, to a millionth of a pixel (16 digits of double, 14 in the cards)."""
    geometry = ImageGeometry(
        nx=32,
        ny=24,
        cell_x=90 * ARCSEC,
        cell_y=120 * ARCSEC,
        centre=Direction(ra=math.radians(-100), dec=math.radians(-35), frame=radesys),
    )
    create_cubes(tmp_path / "out", ["image"], describe(geometry=geometry))
    wcs = WCS(fits.getheader(tmp_path / "out.image.fits")).celestial
    ra0, dec0 = geometry.centre.ra, geometry.centre.dec
    centre = np.array([math.cos(dec0) * math.cos(ra0), math.cos(dec0) * math.sin(ra0), math.sin(dec0)])
    east = np.array([-math.sin(ra0), math.cos(ra0), 0.0])
    north = np.cross(centre, east)
    for x, y in ((16, 12), (0, 0), (31, 0), (31, 23), (5, 20)):
        # x grows to the west, and pixel (nx/2, ny/2) counted from 0 is the phase centre
        l, m = (16 - x) * geometry.cell_x, (y - 12) * geometry.cell_y
        direction = l * east + m * north + math.sqrt(1 - l * l - m * m) * centre
        ra = math.degrees(math.atan2(direction[1], direction[0])) % 360
        dec = math.degrees(math.asin(direction[2]))
        assert wcs.wcs_pix2world(x, y, 0) == pytest.approx([ra, dec], abs=120 / 3600 * 1e-6)
        assert wcs.wcs_world2pix(ra, dec, 0) == pytest.approx([x, y], abs=1e-6)
    assert wcs.wcs.radesys == radesys


@pytest.mark.parametrize(
    "frequency", [RISING, RISING[::-1], RISING[:1]], ids=["rising", "falling frequency", "one channel"]
)
@pytest.mark.parametrize("stokes", [("I",), ("I", "V"), ("Q", "U"), ("I", "Q", "U", "V"), ("pseudoI",)])
def test_spectral_cube_finds_frequencies_and_beams(
    tmp_path: Path, frequency: np.ndarray, stokes: tuple[str, ...]
) -> None:
    axis = make_axis(frequency)
    cube = create_cubes(tmp_path / "out", ["image"], describe(axis, stokes=stokes))["image"]
    beams = make_beams(len(stokes), axis.nchan)
    for index in range(len(stokes)):
        for channel in range(axis.nchan):
            write_plane(cube, index, channel, numbered_plane(index, channel))
    write_beams(cube, beams)

    read = read_spectral_cube(cube.path)
    several = len(stokes) * axis.nchan > 1
    assert isinstance(read, VaryingResolutionSpectralCube) is several
    assert read.unit == units.Jy / units.beam
    # relative 1e-12: the header holds doubles in decimal
    assert read.spectral_axis.to_value(units.Hz) == pytest.approx(frequency, rel=1e-12)
    header = fits.getheader(cube.path)
    codes = header["CRVAL4"] + header["CDELT4"] * np.arange(len(stokes))
    assert codes.tolist() == [{"I": 1, "pseudoI": 1, "Q": 2, "U": 3, "V": 4}[name] for name in stokes]
    assert np.array_equal(read.unitless_filled_data[:], [numbered_plane(0, c) for c in range(axis.nchan)])
    if not several:
        assert read.beam.major.to_value(units.rad) == pytest.approx(beams[0][0].bmaj, rel=1e-12)
        return
    # the table holds float32
    assert read.beams.major.to_value(units.rad) == pytest.approx([beam.bmaj for beam in beams[0]], rel=1e-6)
    assert read.beams.minor.to_value(units.rad) == pytest.approx([beam.bmin for beam in beams[0]], rel=1e-6)
    assert read.beams.pa.to_value(units.rad) == pytest.approx([beam.bpa for beam in beams[0]], abs=1e-6)
    table = fits.getdata(cube.path, "BEAMS")
    assert table["POL"].tolist() == np.repeat(np.arange(len(stokes)), axis.nchan).tolist()
    assert table["BMAJ"] == pytest.approx([beam.bmaj / ARCSEC for row in beams for beam in row], rel=1e-6)


@pytest.mark.parametrize("at_creation", [True, False], ids=["given beam", "common beam, known at the end"])
def test_a_beam_for_all_channels_is_in_the_header(tmp_path: Path, at_creation: bool) -> None:
    beam = Beam(bmaj=5 * ARCSEC, bmin=4 * ARCSEC, bpa=math.radians(-70))
    cubes = create_cubes(
        tmp_path / "out",
        ["image", "residual", "model"],
        describe(history=("robust=0.5",), restoring_beam=beam if at_creation else "common"),
    )
    before = fits.getheader(cubes["image"].path)
    for channel in range(5):
        write_plane(cubes["image"], 0, channel, numbered_plane(0, channel))
    if not at_creation:
        write_single_beam(cubes["image"], beam)

    header = fits.getheader(cubes["image"].path)
    assert [header["BMAJ"], header["BMIN"], header["BPA"]] == pytest.approx([5 / 3600, 4 / 3600, -70], rel=1e-13)
    assert list(header) == list(before) and header["HISTORY"] == before["HISTORY"]
    read = read_spectral_cube(cubes["image"].path)
    assert not isinstance(read, VaryingResolutionSpectralCube)
    assert read.beam.major.to_value(units.arcsec) == pytest.approx(5)
    assert len(fits.open(cubes["image"].path)) == 1
    # the residual keeps the beam of every channel's own PSF
    assert fits.getheader(cubes["residual"].path, "BEAMS")["NCHAN"] == 5
    assert "BMAJ" not in fits.getheader(cubes["model"].path)


@pytest.mark.parametrize("product", ["image", "residual", "psf", "dirty"])
@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "no data"])
def test_the_beam_of_a_single_plane_is_in_the_header(tmp_path: Path, product: str, fitted: bool) -> None:
    """radio_beam reads it there; a plane without data has a beam of one pixel of 2 arcsec, as a table would."""
    cube = create_cubes(tmp_path / "out", [product], describe(make_axis(RISING[:1])))[product]
    write_beams(cube, make_beams(1, 1) if fitted else [[None]])
    with fits.open(cube.path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1 and "CASAMBM" not in hdus[0].header
        beam = RadioBeam.from_fits_header(hdus[0].header)
    expected = [4, 3] if fitted else [2, 2]
    assert [beam.major.to_value("arcsec"), beam.minor.to_value("arcsec")] == pytest.approx(expected, rel=1e-12)


def test_a_given_beam_is_not_that_of_a_single_residual_plane(tmp_path: Path) -> None:
    given = Beam(bmaj=9 * ARCSEC, bmin=8 * ARCSEC, bpa=0.5)
    cubes = create_cubes(
        tmp_path / "out", ["image", "residual", "model"], describe(make_axis(RISING[:1]), restoring_beam=given)
    )
    write_beams(cubes["residual"], make_beams(1, 1))
    major = {name: fits.getheader(cube.path).get("BMAJ") for name, cube in cubes.items()}
    assert major["image"] == pytest.approx(9 / 3600, rel=1e-12)
    assert major["residual"] == pytest.approx(4 / 3600, rel=1e-12)
    assert major["model"] is None


def test_one_channel_of_several_stokes_keeps_a_beam_for_each(tmp_path: Path) -> None:
    cube = create_cubes(tmp_path / "out", ["psf"], describe(make_axis(RISING[:1]), stokes=("I", "V")))["psf"]
    write_beams(cube, make_beams(2, 1))
    assert fits.getdata(cube.path, "BEAMS")["BMAJ"] == pytest.approx([4, 5], rel=1e-6)
    assert "BMAJ" not in fits.getheader(cube.path)


def test_channel_without_beam_takes_the_nearest(tmp_path: Path) -> None:
    """No reader accepts an empty row: nearest channel of the same Stokes, the lower of two; else one pixel."""
    axis = make_axis(86e9 + 1e5 * np.arange(6))
    cube = create_cubes(tmp_path / "out", ["image"], describe(axis, stokes=("I", "Q")))["image"]
    beam = [Beam(bmaj=(4 + c) * ARCSEC, bmin=3 * ARCSEC, bpa=0.1) for c in range(6)]
    write_beams(cube, [[None, beam[1], None, beam[3], None, None], [None] * 6])
    table = fits.getdata(cube.path, "BEAMS")
    assert table["BMAJ"][:6] == pytest.approx([5, 5, 5, 7, 7, 7])
    assert table["CHAN"].tolist() == [*range(6), *range(6)]
    assert table["BMAJ"][6:] == pytest.approx([2] * 6) and table["BMIN"][6:] == pytest.approx([2] * 6)


def test_uneven_channels_are_listed_and_announced(tmp_path: Path) -> None:
    frequency = [1e9, 1.1e9, 1.5e9]
    axis = SpectralAxis(
        frequency=np.array(frequency), width=np.array([1e6, 2e6, 3e6]), frame=FRAMES["TOPO"], restfreq=None
    )
    cubes = create_cubes(tmp_path / "out", ["image", "model"], describe(axis))
    write_beams(cubes["image"], make_beams(1, 3))
    for cube in cubes.values():
        with fits.open(cube.path) as hdus:
            hdus.verify("exception")
            assert "NOT EVENLY SPACED" in str(hdus[0].header["COMMENT"])
            assert hdus["CHANNELS"].data["FREQ"].tolist() == frequency
            assert hdus["CHANNELS"].data["WIDTH"].tolist() == [1e6, 2e6, 3e6]
            assert hdus["CHANNELS"].columns["FREQ"].unit == "Hz"
            assert hdus[0].header["CRVAL3"] + 2 * hdus[0].header["CDELT3"] == 1.5e9
            assert "RESTFRQ" not in hdus[0].header
    assert isinstance(read_spectral_cube(cubes["image"].path), VaryingResolutionSpectralCube)


def test_even_channels_need_no_list(tmp_path: Path) -> None:
    cube = create_cubes(tmp_path / "out", ["model"], describe())["model"]
    header = fits.getheader(cube.path)
    assert len(fits.open(cube.path)) == 1 and "COMMENT" not in header


def test_history_holds_every_parameter(tmp_path: Path) -> None:
    long_list = "mask=" + ",".join(f"/data/mask{number:03d}.fits" for number in range(20))
    history = ["vis=/données/ångström.ms", "phasecenter=J2000\t4h33m\n+18d", long_list, "niter=1000"]
    create_cubes(tmp_path / "out", ["image"], describe(history=tuple(history)))
    with fits.open(tmp_path / "out.image.fits") as hdus:
        hdus.verify("exception")
        cards = list(hdus[0].header["HISTORY"])
    assert cards[0] == r"vis=/donn\xe9es/\xe5ngstr\xf6m.ms"
    assert cards[1] == r"phasecenter=J2000\t4h33m\n+18d"
    assert cards[-1] == "niter=1000"
    assert cards[2] + "".join(card.removeprefix("  ") for card in cards[3:-1]) == long_list


def _write_channels(cube: CubeFile, channels: Sequence[int]) -> None:
    for channel in channels:
        for stokes_index in range(cube.nstokes):
            write_plane(cube, stokes_index, channel, numbered_plane(stokes_index, channel))
    sync(cube)


def test_planes_of_two_processes_in_any_order_arrive(tmp_path: Path) -> None:
    axis = make_axis(86e9 + 1e5 * np.arange(40))
    cube = create_cubes(tmp_path / "out", ["image"], describe(axis, stokes=("I", "V")))["image"]
    assert pickle.loads(pickle.dumps(cube)) == cube
    order = np.random.default_rng(1).permutation(39).tolist()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_write_channels, args=(cube, part)) for part in (order[:20], order[20:])]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    write_plane(cube, 0, 39, np.full(GEOMETRY.shape, np.nan))
    write_beams(cube, make_beams(2, 40))
    data = fits.getdata(cube.path)
    for channel in range(39):
        for stokes_index in (0, 1):
            assert np.array_equal(data[stokes_index, channel], numbered_plane(stokes_index, channel))
            assert np.array_equal(read_plane(cube, stokes_index, channel), data[stokes_index, channel])
    assert np.isnan(read_plane(cube, 0, 39)).all()
    assert read_plane(cube, 0, 39).dtype == np.float32
    assert (read_plane(cube, 1, 39) == 0).all()


def test_plane_outside_the_cube_or_of_another_shape_is_a_defect(tmp_path: Path) -> None:
    cube = create_cubes(tmp_path / "out", ["image"], describe())["image"]
    for stokes_index, channel in ((0, 5), (0, -1), (1, 0)):
        with pytest.raises(IndexError):
            write_plane(cube, stokes_index, channel, numbered_plane(0, 0))
        with pytest.raises(IndexError):
            read_plane(cube, stokes_index, channel)
    with pytest.raises(ValueError, match="shape"):
        write_plane(cube, 0, 0, numbered_plane(0, 0).T)


def test_a_cube_deleted_during_the_run_is_reported_in_one_line(tmp_path: Path) -> None:
    cube = create_cubes(tmp_path / "out", ["image"], describe())["image"]
    (tmp_path / "out.image.fits").unlink()
    with pytest.raises(GpucubeError, match=r"cannot write channel 2 to .*out\.image\.fits: No such file"):
        write_plane(cube, 0, 2, numbered_plane(0, 2))


def test_disk_too_small_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    huge = ImageGeometry(nx=30000, ny=30000, cell_x=ARCSEC, cell_y=ARCSEC, centre=Direction(ra=0.0, dec=0.0))
    axis = make_axis(86e9 + 1e5 * np.arange(100_000))  # 360 TB a product
    refusal = r"the cubes need 720 TB of disk but .* has only .* free: choose another `imagename`"
    with pytest.raises(GpucubeError, match=refusal) as caught:
        create_cubes(tmp_path / "new" / "out", ["image", "model"], describe(axis, geometry=huge))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("present", [*(f"out.{product}.fits" for product in PRODUCT_UNITS), "out.summary.json"])
def test_earlier_products_are_kept_unless_overwrite(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("precious")
    (tmp_path / "other.image.fits").write_text("not ours")
    with pytest.raises(GpucubeError, match=rf"{present} exists: .*overwrite=True"):
        create_cubes(tmp_path / "out", ["image"], describe())
    assert {path.name for path in tmp_path.iterdir()} == {present, "other.image.fits"}
    assert (tmp_path / present).read_text() == "precious"

    create_cubes(tmp_path / "out", ["image"], describe(), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out.image.fits", "other.image.fits"}
    assert fits.getheader(tmp_path / "out.image.fits")["NAXIS3"] == 5


def test_folder_is_made_and_an_impossible_one_refused(tmp_path: Path) -> None:
    create_cubes(tmp_path / "a" / "b" / "out", ["model"], describe())
    assert (tmp_path / "a" / "b" / "out.model.fits").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(GpucubeError, match=r"cannot make the folder .*file.*: Not a directory|File exists"):
        create_cubes(tmp_path / "file" / "out", ["model"], describe())


def _create_with_file_size_limit(folder: Path, limit: int, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        create_cubes(folder / "out", ["model", "image"], describe(), overwrite=True)
    except GpucubeError as error:
        answer.send(str(error))


def test_failure_half_way_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    """The system refuses the second file (a file size limit between the two sizes, in a process of its own)."""
    model, image = create_cubes(tmp_path / "size", ["model", "image"], describe()).values()
    limit = model.data_end + 100
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "out.image.fits").write_text("precious")
    spawn = multiprocessing.get_context("spawn")
    for folder in (kept, tmp_path / "fresh"):
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_create_with_file_size_limit, args=(folder, limit, sender))
        process.start()
        process.join()
        assert receiver.poll() and "File too large" in receiver.recv()
    assert [path.name for path in kept.iterdir()] == ["out.image.fits"]
    assert (kept / "out.image.fits").read_text() == "precious"
    assert not (tmp_path / "fresh").exists()
    assert image.data_end == model.data_end


@pytest.mark.parametrize("stokes", [("I", "Q", "V"), ("I", "pseudoI"), ("Q", "U", "I")])
def test_unevenly_spaced_stokes_are_refused(tmp_path: Path, stokes: tuple[str, ...]) -> None:
    with pytest.raises(GpucubeError, match=r"stokes=.*evenly spaced"):
        create_cubes(tmp_path / "out", ["image"], describe(stokes=stokes))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """No time stamp of its own: a repeated run can be compared byte by byte."""
    for name in ("one", "two"):
        cube = create_cubes(tmp_path / name, ["image"], describe(history=(json.dumps({"gain": 0.1}),)))
        write_beams(cube["image"], make_beams(1, 5))
    assert (tmp_path / "one.image.fits").read_bytes() == (tmp_path / "two.image.fits").read_bytes()
