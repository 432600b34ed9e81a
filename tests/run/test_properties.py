"""Whatever is in a small MeasurementSet: no traceback, no hang, no hole in a channel with data, no number in one without.

Random arrays, channels, hands and corrupt values; random pixels, weighting and kinds of cycle. The oracle is counting: which
channels have a sample that is unflagged, cross-correlated, finite and of positive weight. ``GPUCUBE_EXAMPLES`` sets the
number of examples (`make torture` takes more).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.units import Quantity
from casacore.tables import table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpucube
from gpucube.cli import main
from gpucube.constants import LIGHT_SPEED
from gpucube.output.records import StopCode
from gpucube.schema.parameters import Parameters
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters, simulate_ms

EXAMPLES = int(os.environ.get("GPUCUBE_EXAMPLES", "40"))

SECONDS = 60
"""An example that takes longer hangs: the usual one takes a tenth of a second, the first of a process waits for compilers."""

RARELY = st.sampled_from([False] * 4 + [True])
BAD_VALUES = (np.nan, np.inf, -np.inf, complex(np.nan, 1), complex(0, np.inf), 1e30, -1e30, 1e-30, 0.0)
BAD_WEIGHTS = (np.nan, np.inf, 0.0, -1.0, 1e-30, 1e30)
BAD_UVW = (np.nan, np.inf, 0.0, 1e-9, 1e30)

arrays = st.fixed_dictionaries(
    {
        "antennas": st.integers(2, 6),
        "ntime": st.integers(1, 4),
        "nchan": st.integers(1, 6),
        "npol": st.sampled_from([1, 2, 4]),
        "noise": st.sampled_from([0.0, 0.05, 10.0]),
        "weight_spectrum": st.booleans(),
        "chan_width": st.sampled_from([15625.0, -15625.0]),
    }
)

corruptions = st.lists(
    st.tuples(
        st.sampled_from(["DATA", "WEIGHT", "WEIGHT_SPECTRUM", "UVW", "FLAG", "FLAG_ROW", "ANTENNA2", "rows"]),
        st.integers(0, 8),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0.02, 0.3, 0.9, 1.0]),
    ),
    max_size=4,
)
"""(column, which bad value, seed of the places, share of the places)."""

jobs = st.fixed_dictionaries(
    {
        "imsize": st.tuples(st.sampled_from([32, 36, 40, 48, 64]), st.sampled_from([32, 36, 50, 64])).map(list),
        "cell": st.sampled_from(["1uas", "1arcsec", "20arcsec", "2arcmin"]),
        "weighting": st.sampled_from(["natural", "uniform", "briggs"]),
        "robust": st.sampled_from([-2.0, 0.5, 2.0]),
        "minorcycle": st.sampled_from(["activeset", "textbook"]),
        "majorcycle": st.sampled_from(["auto", "visibility", "image"]),
        "gridder": st.sampled_from(["auto", "standard", "wgridder"]),
        "niter": st.sampled_from([0, 1, 200]),
        "nsigma": st.sampled_from([0.0, 3.0]),
        "gain": st.sampled_from([0.1, 1.0]),
        "cyclefactor": st.sampled_from([0.1, 1.0]),
        "restoringbeam": st.sampled_from(["", "common", "60arcsec"]),
        "uvtaper": st.sampled_from(["", "0.2klambda"]),
        "width": st.sampled_from([1, 1, 2]),
        "chunksize": st.sampled_from([1, -1]),
        "stokes": st.sampled_from(["I", "pseudoI"]),
        "workers": st.sampled_from([1, 2]),
    }
)


def corrupt(ms: Path, column: str, which: int, seed: int, share: float) -> None:
    """Put one bad value in random places of a column; ``"rows"`` copies rows, or leaves a single one unflagged."""
    rng = np.random.default_rng(seed)
    with table(str(ms), readonly=False, ack=False) as main_table:
        if column not in (*main_table.colnames(), "rows"):
            return
        nrow = main_table.nrows()
        if column == "rows":
            if which % 2:
                main_table.copyrows(main_table, 0, -1, max(1, int(share * nrow)))
            else:
                keep = np.arange(nrow) != rng.integers(nrow)
                main_table.putcol("FLAG_ROW", main_table.getcol("FLAG_ROW") | keep)
            return
        values = main_table.getcol(column)
        places = rng.random(values.shape) < share
        bad: Any = {
            "DATA": BAD_VALUES[which % len(BAD_VALUES)],
            "UVW": BAD_UVW[which % len(BAD_UVW)],
            "FLAG": bool(which),
            "FLAG_ROW": bool(which),
            "ANTENNA2": main_table.getcol("ANTENNA1") if column == "ANTENNA2" else 0,
        }.get(column, BAD_WEIGHTS[which % len(BAD_WEIGHTS)])
        values[places] = bad[places] if isinstance(bad, np.ndarray) else bad
        main_table.putcol(column, values)


def good_samples(ms: Path) -> np.ndarray:
    """Which samples of the two parallel hands could count at all: (nrow, nchan, 2) bool."""
    with table(str(ms), ack=False) as main_table:
        names = ("DATA", "FLAG", "FLAG_ROW", "WEIGHT", "UVW", "ANTENNA1", "ANTENNA2")
        columns = {name: main_table.getcol(name) for name in names}
        weight = columns["WEIGHT"][:, None, :]
        if "WEIGHT_SPECTRUM" in main_table.colnames():
            spectrum = main_table.getcol("WEIGHT_SPECTRUM")
            filled = ((spectrum > 0) & np.isfinite(spectrum)).any((1, 2))  # the other rows have the weights of WEIGHT
            weight = np.where(filled[:, None, None], spectrum, weight)
    values = np.maximum(np.abs(columns["DATA"].real), np.abs(columns["DATA"].imag))
    good = ~columns["FLAG"] & (values < 1e20) & (weight < 1e20) & (weight > 0)
    rows = ~columns["FLAG_ROW"] & (columns["ANTENNA1"] != columns["ANTENNA2"])
    rows &= (np.abs(columns["UVW"]) < 1e10).all(1) & columns["UVW"].any(1)
    return (good & rows[:, None, None])[:, :, [0, -1]]


def usable(ms: Path, width: int) -> list[int]:
    """For every output channel: how many samples of either hand could count at all."""
    good = good_samples(ms).sum((0, 2))
    return [int(good[k : k + width].sum()) for k in range(0, len(good) // width * width, width)]


def rows_that_count(ms: Path, job: dict) -> np.ndarray:
    """Rows with a sample that could count: (nrow,) bool. Stokes I needs both hands."""
    good = good_samples(ms)
    good = good[:, : good.shape[1] // job["width"] * job["width"]]  # the last channels may be too few for an average
    rows: np.ndarray = (good.all(2) if job["stokes"] == "I" else good.any(2)).any(1)
    return rows


def all_off_grid(ms: Path, job: dict) -> bool:
    """Whether every sample that counts, or every row if none does, has too long a baseline for cells of this size."""
    rows = rows_that_count(ms, job)
    with table(str(ms), ack=False) as main_table, table(str(ms / "SPECTRAL_WINDOW"), ack=False) as windows:
        rows = rows if rows.any() else main_table.getcol("ANTENNA1") != main_table.getcol("ANTENNA2")
        longer = np.abs(main_table.getcol("UVW")[rows, :2]).max(1)  # (nrow,), the longer of |u| and |v|, in metres
        wavelengths = longer * windows.getcol("CHAN_FREQ").max() / LIGHT_SPEED
    cells = wavelengths * Quantity(job["cell"].replace("1uas", "1uarcsec")).to_value("rad")
    return bool(rows.any() and (cells > 0.49).all())  # half a wavelength a cell is the edge of the grid


@settings(
    max_examples=EXAMPLES,
    deadline=SECONDS * 1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(array=arrays, corruption=corruptions, job=jobs, no_rows=RARELY)
def test_any_small_measurement_set(array: dict, corruption: list, job: dict, no_rows: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gpucube-"))
    try:
        ms = make(array, corruption, folder, no_rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)  # what gpucube itself says of data that are lost
            try:
                result = gpucube.image_cube(ms, imagename=folder / "out" / "cube", quiet=True, **PRODUCTS, **job)
            except gpucube.GpucubeError as refusal:
                assert "\n" not in str(refusal)
                assert not (folder / "out").exists(), "a refused job leaves nothing behind"
                # nothing else is wrong with these jobs
                nothing = no_rows or job["width"] > array["nchan"] or not rows_that_count(ms, job).any()
                assert nothing or all_off_grid(ms, job), refusal
                return
        check(result, usable(ms, job["width"]), job, corruption)
    finally:
        shutil.rmtree(folder)


PRODUCTS = {"products": ("image", "residual", "model", "psf", "dirty", "mask")}


def make(array: dict, corruption: list, folder: Path, no_rows: bool) -> Path:
    """A simulated MS with damage done to it."""
    plain = {"out": folder / "sim.ms", "array": "vla-d", "peak": 1.0, "imsize": 64, "cell": 20.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the simulator's statistics of channels that happen to be empty
        ms = Path(simulate_ms(validated(SimulationParameters, plain | array)).ms)
    for one in corruption:
        corrupt(ms, *one)
    if no_rows:
        with table(str(ms), ack=False) as main_table:
            main_table.query("FIELD_ID < 0").copy(str(folder / "empty.ms"), deep=True).close()
        return folder / "empty.ms"
    return ms


def check(result: gpucube.Result, count: list[int], job: dict, corruption: list) -> None:
    """Finite in channels with data, NaN in those without; records that agree with the planes."""
    assert len(result.channels) == len(count)
    for product in PRODUCTS["products"]:
        cube = fits.getdata(result.products[product])
        for record in result.channels:
            plane = cube[:, record.channel]
            if product == "mask":
                assert (plane == 1).all()
            elif record.stop_code in (StopCode.NO_DATA, StopCode.FAILED):
                assert np.isnan(plane).all(), (product, record)
            else:
                assert np.isfinite(plane).all(), (product, record)
    for record in result.channels:
        if count[record.channel] == 0:
            assert record.stop_code == StopCode.NO_DATA and record.visibilities == 0
        elif record.stop_code == StopCode.NO_DATA:
            # Stokes I needs both hands of a sample; a taper and the edge of a grid of large cells leave samples out
            seen = job["stokes"] == "pseudoI" and not job["uvtaper"] and job["cell"] != "2arcmin"
            assert record.sum_weights == 0 and not seen
        assert record.stop_code != StopCode.FAILED or (record.message and corruption)
        assert record.iterations <= job["niter"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
NAMES = st.sampled_from(sorted(Parameters.model_fields)) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(
    max_examples=5 * EXAMPLES, deadline=SECONDS * 1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_yaml_is_understood_or_reported_in_one_line(values: dict, tmp_path_factory: Any, capsys: Any) -> None:
    file = tmp_path_factory.mktemp("yaml") / "job.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    one_line(["plan", "no.ms", "--config", str(file)], capsys)


@settings(
    max_examples=5 * EXAMPLES, deadline=SECONDS * 1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_as_yaml_are_understood_or_reported_in_one_line(
    content: bytes, tmp_path_factory: Any, capsys: Any
) -> None:
    file = tmp_path_factory.mktemp("yaml") / "job.yaml"
    file.write_bytes(content)
    one_line(["plan", "no.ms", "--config", str(file)], capsys)


ARGUMENTS = st.lists(
    st.sampled_from([f"--{name}" for name in Parameters.model_fields] + ["--", "-", "--=", "--imsize=64"])
    | st.text(max_size=8).filter(lambda text: text not in ("-h", "--help", "--version")),
    max_size=6,
)


@settings(
    max_examples=5 * EXAMPLES, deadline=SECONDS * 1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=ARGUMENTS)
def test_any_arguments_are_understood_or_reported_in_one_line(arguments: list[str], capsys: Any) -> None:
    one_line(["plan", "no-such.ms", *arguments], capsys)


def one_line(arguments: list[str], capsys: Any) -> None:
    """There is no such MeasurementSet, so that the command can only refuse."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gpucube: error: ")
    assert len(err.splitlines()) == 1 and err.endswith("\n")
