"""Channels copied from a store are those that INGEST reads from the MeasurementSet, in every bit of the new store."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import altered

from gpucube.data.copying import copy_channels
from gpucube.data.ingest import Ingest, ingest_rows, plan_partitions
from gpucube.data.recipe import Recipe, make_recipe, part_of
from gpucube.data.regrid import Regridding
from gpucube.data.rows import RowSelection
from gpucube.data.scratch import allocate
from gpucube.data.selection import Selection, Source, select
from gpucube.data.store import VisibilityStore
from gpucube.schema.parameters import make_parameters

NCHAN = 6


@pytest.fixture(scope="module")
def ms(make_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels from 1420.367 to 1420.445 MHz in LSRK."""
    simulated = make_ms(antennas=8, ntime=8, nchan=NCHAN).ms
    return altered(simulated, tmp_path_factory.mktemp("flags"), flag_some)


def flag_some(t: tables.table) -> None:
    """In some rows channels 2 and 3 are flagged, or every second one, or all; also 2 and 3 of the longest baseline."""
    flag = np.zeros_like(t.getcol("FLAG"))
    flag[::5, 2:4] = True
    flag[1::5, ::2] = True
    flag[7] = True
    flag[np.hypot(*t.getcol("UVW")[:, :2].T).argmax(), 1:5] = True
    t.putcol("FLAG", flag)


def selected(ms: Path, **changes: Any) -> tuple[Selection, Recipe]:
    vis = changes.pop("vis", str(ms))
    selection = select(make_parameters(vis=vis, imagename="x", imsize=64, cell="20arcsec", **changes))
    return selection, make_recipe(selection, {source.path: source.path for source in selection.sources})


def read(selection: Selection, folder: Path) -> VisibilityStore:
    reading = Ingest(selection, str(folder))
    return reading.finish(report for job in reading.jobs for report in ingest_rows(job))


MHZ: dict[str, Any] = {"width": "15kHz"}
GRIDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channels of the data": ({}, {"start": 2, "nchan": 2}),
    "the same by spw": ({}, {"spw": "0:2~3"}),
    "falling": ({"stokes": "IV"}, {"start": 3, "nchan": 2, "width": -1, "stokes": "IV"}),
    "averages": ({"width": 2}, {"width": 2, "start": 2, "nchan": 1}),
    "either hand": ({"stokes": "pseudoI"}, {"stokes": "pseudoI", "start": 1, "nchan": 4}),
    "another phase centre": (
        {"phasecenter": "J2000 12h30m2s 30d0m0s"},
        {"phasecenter": "J2000 12h30m2s 30d0m0s", "start": 2, "nchan": 2},
    ),
    "another frame": (
        {"outframe": "TOPO", "start": "1420.41MHz", "nchan": 8, **MHZ},
        {"outframe": "TOPO", "start": "1420.455MHz", "nchan": 2, **MHZ},
    ),
    "cubic, with a blank channel": (
        {"start": "1420.345MHz", "nchan": 7, "interpolation": "cubic", **MHZ},
        {"start": "1420.345MHz", "nchan": 4, "interpolation": "cubic", **MHZ},
    ),
    "nearest": (
        {"start": "1420.36MHz", "nchan": 7, "interpolation": "nearest", **MHZ},
        {"start": "1420.39MHz", "nchan": 2, "interpolation": "nearest", **MHZ},
    ),
}
"""All channels, and some of them."""


@pytest.mark.parametrize("name", GRIDS)
def test_a_copy_has_the_bits_of_what_is_read(name: str, ms: Path, tmp_path: Path) -> None:
    (whole, made), (some, wanted) = (selected(ms, **changes) for changes in GRIDS[name])
    expected, partitions = read(some, tmp_path / "read"), plan_partitions(some, str(tmp_path / "copy"))
    part = part_of(made, wanted)
    assert part is not None
    allocate(partitions)
    copy = copy_channels(read(whole, tmp_path / "whole"), part, partitions)
    for mine, its in zip(copy.partitions, expected.partitions, strict=True):
        assert asdict(mine) | {"folder": ""} == asdict(its) | {"folder": ""}
        for array in mine.layout():
            assert Path(mine.path(array)).read_bytes() == Path(its.path(array)).read_bytes(), array
    for numbers in ("counts", "selected", "lacking"):
        assert np.array_equal(getattr(copy, numbers), getattr(expected, numbers)), numbers
    # sums of float64 in another order
    assert copy.power == pytest.approx(expected.power, rel=1e-12)


NOT_THERE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channels": ({"spw": "0:0~3"}, {"start": 3, "nchan": 2}),
    "averages": ({}, {"width": 2}),
    "averages that begin elsewhere": ({"width": 2}, {"width": 2, "start": 1}),
    "a frequency": ({"start": "1420.36MHz", "nchan": 5}, {"start": "1420.361MHz", "nchan": 2}),
    "samples of a gap": ({"spw": "0:0~1;4~5", "start": "1420.39MHz"}, {"start": "1420.39MHz", "nchan": 1}),
    "an interpolation": ({"start": "1420.36MHz"}, {"start": "1420.36MHz", "interpolation": "cubic"}),
    "a Stokes parameter": ({}, {"stokes": "V", "nchan": 2}),
    "a fit of the continuum to other channels": ({"contsubspw": "0:0~1;5"}, {"contsubspw": "0:0~1;4~5", "nchan": 2}),
    "a fit that is judged elsewhere": ({"contsubspw": "0:0~1;5"}, {"contsubspw": "0:0~1;5", "nchan": 2}),
    "interpolation at the end of the data": (
        {"spw": "0:0;5", "start": "1420.345MHz", "interpolation": "cubic"},
        {"spw": "0:5", "start": "1420.435MHz", "interpolation": "cubic"},
    ),
    "no continuum": ({}, {"contsubspw": "0:0~1;5"}),
}
"""What a store has, and what it does not."""


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_a_store_does_not_have_is_not_found_in_it(name: str, ms: Path) -> None:
    (_, made), (_, wanted) = (selected(ms, **changes) for changes in NOT_THERE[name])
    assert part_of(made, wanted) is None


def test_a_measurementset_more_or_less_is_not_a_part(ms: Path, tmp_path: Path) -> None:
    other = altered(ms, tmp_path, lambda t: None)
    (_, one), (_, two) = selected(ms), selected(ms, vis=[str(ms), str(other)])
    assert part_of(one, two) is None
    assert part_of(two, one) is None
    assert part_of(two, two) is not None


IN_RECIPES = {
    Source: "column weight rows combinations channel_map regridding rotation rotation_time pointing continuum",
    Regridding: "output centre width frequency selected spacing rises method",
    RowSelection: "number cross keep factor",
}
WITHOUT_EFFECT = {
    Source: "path spw slices tile_bytes input_shape",  # where and how it is read; the files themselves are in recipes
    Regridding: "",
    RowSelection: "time",  # of these rows of these files
}


@pytest.mark.parametrize("kind", IN_RECIPES)
def test_a_recipe_forgets_nothing_that_a_source_has(kind: type) -> None:
    """If this fails, a new attribute belongs into `gpucube.data.recipe`, unless it changes no bit of a store."""
    assert {field.name for field in fields(kind)} == set(f"{IN_RECIPES[kind]} {WITHOUT_EFFECT[kind]}".split())
