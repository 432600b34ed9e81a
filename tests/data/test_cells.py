"""Cells as they are in real MeasurementSets: filled in part, never written, of the wrong shape or type, or garbage.

The oracle is the unaltered MeasurementSet: the same samples, weights and extents, or one line that names column and row.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import column

from gpucube.data.ingest import Ingest, ingest_rows
from gpucube.data.rows import LARGEST_BLOCK, reads_slices, rows_per_block
from gpucube.data.selection import Selection, select
from gpucube.data.store import PlaneKey, VisibilityStore
from gpucube.devices.cycle_rules import MOST_W_PLANES, needs_w
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters

NROW, NCHAN = 900, 12
Change = Callable[[tables.table], None]


def changed(ms: Path, folder: Path, change: Change) -> Path:
    copy = folder / "altered.ms"
    shutil.copytree(ms, copy)
    with tables.table(str(copy), readonly=False, ack=False) as t:
        change(t)
    return copy


def ingest(
    ms: Path, folder: Path, block_rows: int | None = None, **changes: Any
) -> tuple[Selection, VisibilityStore, np.ndarray]:
    """Selection, store, and the sum of weights of every channel."""
    selection = select(make_parameters(vis=ms, imagename="unused", **changes))
    reading = Ingest(selection, str(folder / "scratch"), block_rows=block_rows)
    store = reading.finish(report for job in reading.jobs for report in ingest_rows(job))
    sums = np.array([store.samples(PlaneKey(channel=c, stokes=0)).weight.sum() for c in range(selection.axis.nchan)])
    return selection, store, sums


@pytest.fixture(scope="module")
def plain(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, tuple[float, float]]:
    """Sums of weights, longest baseline and largest |w| of the unaltered MeasurementSet."""
    _, store, sums = ingest(tiny_ms.ms, tmp_path_factory.mktemp("plain"))
    return sums, store.max_uvw_wavelengths()


def new_column(t: tables.table, name: str, kind: str, tiled: bool) -> None:
    """Add an array column without cells; an existing one of that name goes."""
    if name in t.colnames():
        t.removecols(name)
    empty = {"float": 0.0, "complex": 0j, "dcomplex": 0j, "boolean": False, "int": 0, "double": 0.0}[kind]
    manager = {"TYPE": "TiledShapeStMan", "NAME": "T" + name, "SPEC": {"DEFAULTTILESHAPE": np.array([2, 12, 64])}}
    description = tables.maketabdesc(tables.makearrcoldesc(name, empty, valuetype=kind, ndim=2))
    t.addcols(description, manager if tiled else {"TYPE": "StandardStMan", "NAME": "S" + name})


def spectrum(rows: range, factor: float = 1.0, others: float | None = None, tiled: bool = False) -> Change:
    """WEIGHT_SPECTRUM that is `factor` times WEIGHT in some rows; others hold a constant, or are not written for None."""

    def change(t: tables.table) -> None:
        weight = t.getcol("WEIGHT")
        new_column(t, "WEIGHT_SPECTRUM", "float", tiled)
        for row in range(NROW):
            if row in rows:
                t.putcell("WEIGHT_SPECTRUM", row, np.tile(factor * weight[row], (NCHAN, 1)).astype(np.float32))
            elif others is not None:
                t.putcell("WEIGHT_SPECTRUM", row, np.full((NCHAN, 2), others, np.float32))

    return change


@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "standard"])
@pytest.mark.parametrize("others", [0.0, None, -1.0, np.nan], ids=["zero", "not written", "negative", "NaN"])
@pytest.mark.parametrize("rows", [range(450), range(450, 900), range(899, 900), range(2, 40)], ids=str)
def test_rows_without_weight_spectrum_have_their_weight(
    rows: range, others: float | None, tiled: bool, tiny_ms: Any, plain: Any, tmp_path: Path
) -> None:
    ms = changed(tiny_ms.ms, tmp_path, spectrum(rows, others=others, tiled=tiled))
    _, store, sums = ingest(ms, tmp_path)
    np.testing.assert_allclose(sums, plain[0], rtol=1e-6)
    used = ~column(ms, "FLAG_ROW")  # no row is an autocorrelation
    kept = int(used[sorted(set(range(NROW)) - set(rows))].sum())
    (warning,) = store.warnings
    assert (
        f"WEIGHT_SPECTRUM is not written or nowhere above 0 in {kept} of {used.sum()} rows: these rows have the weights of WEIGHT"
        in warning
    )


@pytest.mark.parametrize("block_rows", [899, 64])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "standard"])
@pytest.mark.parametrize("rows", [range(450), range(450, 900), range(0, 900, 2)], ids=str)
def test_a_part_of_a_table_is_read_like_all_of_it(
    rows: range, tiled: bool, block_rows: int, tiny_ms: Any, plain: Any, tmp_path: Path
) -> None:
    """casacore reads both in different ways, one of which trusts that all cells are written."""
    ms = changed(tiny_ms.ms, tmp_path, spectrum(rows, tiled=tiled))
    np.testing.assert_allclose(ingest(ms, tmp_path, block_rows)[2], plain[0], rtol=1e-6)


def test_a_part_of_weight_spectrum_counts_where_it_is(tiny_ms: Any, plain: Any, tmp_path: Path) -> None:
    ms = changed(tiny_ms.ms, tmp_path, spectrum(range(450, 900), factor=4.0))
    sums = ingest(ms, tmp_path)[2]
    used = plain[0] > 0
    ratio = sums[used] / plain[0][used]
    assert ((ratio > 2.2) & (ratio < 2.8)).all()  # half of the rows weigh four times as much


@pytest.mark.parametrize("others", [0.0, None], ids=["zero", "not written"])
def test_a_weight_spectrum_without_any_weight_is_no_reason_to_speak(
    others: float | None, tiny_ms: Any, plain: Any, tmp_path: Path
) -> None:
    _, store, sums = ingest(changed(tiny_ms.ms, tmp_path, spectrum(range(0), others=others)), tmp_path)
    np.testing.assert_allclose(sums, plain[0], rtol=1e-6)
    assert store.warnings == ()


def unwritten(name: str, kind: str, tiled: bool, source: str) -> Change:
    def change(t: tables.table) -> None:
        values = t.getcol(source)
        new_column(t, name, kind, tiled)
        for row in range(450):
            t.putcell(name, row, values[row])

    return change


@pytest.mark.parametrize("block_rows", [NROW, 100], ids=["one block", "blocks"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "standard"])
@pytest.mark.parametrize(
    ("name", "kind", "source"),
    [("DATA", "complex", "DATA"), ("FLAG", "boolean", "FLAG"), ("CORRECTED_DATA", "complex", "DATA")],
)
def test_a_cell_that_is_not_written_is_named_with_its_column_and_row(
    name: str, kind: str, source: str, tiled: bool, block_rows: int, tiny_ms: Any, tmp_path: Path
) -> None:
    ms = changed(tiny_ms.ms, tmp_path, unwritten(name, kind, tiled, source))
    with pytest.raises(GpucubeError, match=f"altered.ms: {name} is not written in row 450") as refusal:
        ingest(ms, tmp_path, block_rows)
    assert "\n" not in str(refusal.value)


def reshaped(name: str, kind: str, shape: tuple[int, ...], rows: range = range(NROW)) -> Change:
    def change(t: tables.table) -> None:
        old = t.getcol(name) if name in t.colnames() else None
        if name in t.colnames():
            t.removecols(name)
        value = {"float": 1.0, "complex": 0j, "boolean": False, "int": 0, "double": 0.0}[kind]
        t.addcols(tables.maketabdesc(tables.makearrcoldesc(name, value, valuetype=kind)))
        for row in range(NROW):
            usual = old[row] if old is not None else np.ones((NCHAN, 2), np.float32)
            t.putcell(name, row, np.full(shape, value) if row in rows else usual)

    return change


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("WEIGHT_SPECTRUM", "float", (2, 2)),
        ("WEIGHT_SPECTRUM", "float", (13, 2)),
        ("WEIGHT_SPECTRUM", "float", (12, 4)),
        ("WEIGHT_SPECTRUM", "float", (24,)),
        ("WEIGHT", "float", (1,)),
        ("WEIGHT", "float", (12, 2)),
        ("FLAG", "boolean", (11, 2)),
        ("FLAG", "boolean", (12, 1)),
        ("FLAG", "int", (12, 2)),
        ("UVW", "double", (2,)),
        ("UVW", "int", (3,)),
        ("DATA", "float", (12, 2)),
    ],
    ids=str,
)
def test_cells_of_another_shape_or_type_are_refused(
    name: str, kind: str, shape: tuple[int, ...], tiny_ms: Any, tmp_path: Path
) -> None:
    ms = changed(tiny_ms.ms, tmp_path, reshaped(name, kind, shape))
    with pytest.raises(GpucubeError, match=f"{name} in row 0 has shape") as refusal:
        ingest(ms, tmp_path)
    assert "\n" not in str(refusal.value)


def test_one_cell_of_another_shape_is_found_among_many(tiny_ms: Any, tmp_path: Path) -> None:
    ms = changed(tiny_ms.ms, tmp_path, reshaped("WEIGHT_SPECTRUM", "float", (3, 2), range(700, 701)))
    with pytest.raises(GpucubeError, match=r"WEIGHT_SPECTRUM in row 700 has shape \(3, 2\).* say \(12, 2\)"):
        ingest(ms, tmp_path)


def test_double_precision_is_read(tiny_ms: Any, plain: Any, tmp_path: Path) -> None:
    def change(t: tables.table) -> None:
        data = t.getcol("DATA")
        new_column(t, "DATA", "dcomplex", tiled=True)
        t.putcol("DATA", data.astype(complex))

    np.testing.assert_array_equal(ingest(changed(tiny_ms.ms, tmp_path, change), tmp_path)[2], plain[0])


@pytest.mark.parametrize("length", [3e4, 1e6, 9e9, 1e20, np.nan])
def test_garbage_in_a_flagged_row_decides_nothing(length: float, tiny_ms: Any, plain: Any, tmp_path: Path) -> None:
    def change(t: tables.table) -> None:
        uvw, flag = t.getcol("UVW"), t.getcol("FLAG")
        uvw[100], flag[100] = length, True
        t.putcol("UVW", uvw)
        t.putcol("FLAG", flag)

    _, store, _ = ingest(changed(tiny_ms.ms, tmp_path, change), tmp_path)
    assert store.max_uvw_wavelengths() == pytest.approx(plain[1], rel=0.05)  # row 100 may have been the longest
    assert store.warnings == ()


@pytest.mark.parametrize("length", [2e10, np.inf, np.nan, 0.0])
def test_a_row_with_uvw_that_no_array_has_is_left_out_and_counted(
    length: float, tiny_ms: Any, plain: Any, tmp_path: Path
) -> None:
    good = np.flatnonzero(~column(tiny_ms.ms, "FLAG_ROW"))[:3]

    def change(t: tables.table) -> None:
        uvw = t.getcol("UVW")
        uvw[good, 1] = length
        uvw[good] *= length != 0  # two antennas are not in one place
        t.putcol("UVW", uvw)

    _, store, sums = ingest(changed(tiny_ms.ms, tmp_path, change), tmp_path)
    assert store.max_uvw_wavelengths() == pytest.approx(plain[1], rel=0.05)
    (warning,) = store.warnings
    assert "3 rows left out, because uvw is 0, not finite or longer than" in warning
    assert (sums <= plain[0]).all() and sums.sum() < plain[0].sum()


def test_a_baseline_that_needs_endless_w_planes_is_refused() -> None:
    assert needs_w(1.0, "wgridder", 1e-4)
    phase = np.pi / 2 * MOST_W_PLANES * 1.01
    for gridder in ("auto", "wgridder"):
        with pytest.raises(GpucubeError, match="w planes: leave them out with `uvrange`"):
            needs_w(phase, gridder, 1e-4)
    assert not needs_w(phase, "standard", 1e-4)


def test_blocks_of_wide_rows_stay_small() -> None:
    usual, wide = 8 * 1024 * 2, 8 * 32768 * 4
    assert rows_per_block(usual, LARGEST_BLOCK) == 512
    assert rows_per_block(wide, LARGEST_BLOCK) * wide <= LARGEST_BLOCK
    assert rows_per_block(10 * LARGEST_BLOCK, LARGEST_BLOCK) == 1


def retiled(channels_a_tile: int) -> Change:
    """DATA, FLAG and WEIGHT_SPECTRUM in tiles of so many channels."""

    def change(t: tables.table) -> None:
        for name, kind in (("DATA", "complex"), ("FLAG", "boolean"), ("WEIGHT_SPECTRUM", "float")):
            values = t.getcol(name)
            t.removecols(name)
            description = tables.maketabdesc(
                tables.makearrcoldesc(name, values.flat[0].item(), valuetype=kind, ndim=2, shape=[64, 2])
            )
            shape = np.array([2, channels_a_tile, 64], np.int32)
            t.addcols(
                description, {"TYPE": "TiledColumnStMan", "NAME": "T" + name, "SPEC": {"DEFAULTTILESHAPE": shape}}
            )
            t.putcol(name, values)

    return change


@pytest.mark.parametrize(("tile", "slices"), [(64, False), (32, False), (4, True)])
def test_some_channels_are_the_same_whether_slices_or_whole_cells_are_read(
    tile: int, slices: bool, make_ms: Any, tmp_path: Path
) -> None:
    made = make_ms(nchan=64, weight_spectrum=True, flag_channels=[])
    ms = changed(Path(made.ms), tmp_path, retiled(tile))
    assert reads_slices(str(ms), "DATA", (5, 9), 64) == slices
    with ExitStack() as stack:
        whole, part = tmp_path / "whole", tmp_path / "part"
        for folder in (whole, part):
            folder.mkdir()
            stack.callback(shutil.rmtree, folder)
        _, store, _ = ingest(ms, whole)
        selection, some, _ = ingest(ms, part, spw="0:5~9")
        assert selection.sources[0].slices == slices
        for channel in range(5):
            expected, found = (
                s.samples(PlaneKey(channel=c, stokes=0)) for s, c in ((store, channel + 5), (some, channel))
            )
            np.testing.assert_array_equal(found.in_order().vis, expected.in_order().vis)
            np.testing.assert_array_equal(found.in_order().weight, expected.in_order().weight)


@pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "standard"])
@pytest.mark.parametrize("skipped", ["FLAG_ROW", "autocorrelation"])
def test_cells_of_rows_that_are_not_used_need_not_be_written(
    skipped: str, tiled: bool, tiny_ms: Any, tmp_path: Path
) -> None:
    """As after applycal on cross-correlations alone, or a calibration that failed for rows which it flagged."""
    unused = np.zeros(NROW, bool)
    unused[::7] = True

    def change(t: tables.table) -> None:
        if skipped == "FLAG_ROW":
            t.putcol("FLAG_ROW", t.getcol("FLAG_ROW") | unused)
        else:
            t.putcol("ANTENNA2", np.where(unused, t.getcol("ANTENNA1"), t.getcol("ANTENNA2")))
        new_column(t, "CORRECTED_DATA", "complex", tiled)
        values = t.getcol("DATA")
        for row in np.flatnonzero(~unused).tolist():
            t.putcell("CORRECTED_DATA", row, values[row])

    ms = changed(tiny_ms.ms, tmp_path, change)
    _, corrected, _ = ingest(ms, tmp_path)
    good = ~unused & ~column(ms, "FLAG_ROW")
    flag = column(ms, "FLAG").any(2)[good]
    assert corrected.counts[0, 0].tolist() == (~flag).sum(0).tolist()
    assert corrected.warnings == ()


def test_a_column_that_ends_early_is_refused_before_anything_is_read(tiny_ms: Any, tmp_path: Path) -> None:
    ms = changed(tiny_ms.ms, tmp_path, unwritten("CORRECTED_DATA", "complex", True, "DATA"))
    with pytest.raises(
        GpucubeError, match=r"CORRECTED_DATA is not written in row 4[0-9]{2}: choose another `datacolumn`"
    ):
        select(make_parameters(vis=[ms], imagename="unused"))
