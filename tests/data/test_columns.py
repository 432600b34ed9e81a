"""What must not depend on the channels that are read together, nor on rows that no image can take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import altered, image, planes

from gpucube.data.ingest import Ingest, ingest_rows
from gpucube.data.selection import select
from gpucube.data.store import VisibilityStore
from gpucube.schema.parameters import make_parameters

NROW, NCHAN = 900, 12


def ingest(ms: Path, folder: Path, **changes: Any) -> VisibilityStore:
    reading = Ingest(select(make_parameters(vis=[ms], imagename="unused", **changes)), str(folder), block_rows=100)
    return reading.finish(report for job in reading.jobs for report in ingest_rows(job))


@pytest.mark.parametrize("tile", [1, 12])
def test_a_channel_without_weight_has_none_even_if_it_is_read_alone(tile: int, tiny_ms: Any, tmp_path: Path) -> None:
    """Its rows have a filled WEIGHT_SPECTRUM, so that WEIGHT does not take its place; a row of zeros has WEIGHT."""

    def change(t: tables.table) -> None:
        values = np.repeat(t.getcol("WEIGHT")[:, None], NCHAN, axis=1)
        values[:, 5] = 0
        values[:450] = 0
        manager = {"TYPE": "TiledShapeStMan", "NAME": "T", "SPEC": {"DEFAULTTILESHAPE": np.array([2, tile, 64])}}
        t.addcols(tables.maketabdesc(tables.makearrcoldesc("WEIGHT_SPECTRUM", 0.0, valuetype="float", ndim=2)), manager)
        t.putcol("WEIGHT_SPECTRUM", values)
        data = t.getcol("DATA")
        t.removecols(["DATA"])
        manager = manager | {"NAME": "TD"}
        t.addcols(tables.maketabdesc(tables.makearrcoldesc("DATA", 0j, valuetype="complex", ndim=2)), manager)
        t.putcol("DATA", data)

    ms = altered(tiny_ms.ms, tmp_path, change)
    together, alone = ingest(ms, tmp_path / "all"), ingest(ms, tmp_path / "alone", spw="0:5")
    assert 0 < alone.counts[0, 0, 0] == together.counts[0, 0, 5] < 450


DYSCO = {
    "dataBitCount": 10,
    "weightBitCount": 12,
    "distribution": "TruncatedGaussian",
    "normalization": "AF",
    "studentTNu": 0.0,
    "distributionTruncation": 2.5,
}


@pytest.mark.parametrize(
    ("manager", "options"),
    [
        ("StandardStMan", {}),
        ("IncrementalStMan", {}),
        ("TiledColumnStMan", {"DEFAULTTILESHAPE": np.array([2, 5, 64])}),
        ("DyscoStMan", DYSCO),
        ("SiscoStMan", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_storage_manager_gives_what_casacore_reads_from_it(
    manager: str, options: dict[str, Any], tiny_ms: Any, tmp_path: Path
) -> None:
    """Dysco (LOFAR) and Sisco compress; Dysco rounds."""
    stored: list[np.ndarray] = []

    def compress(t: tables.table) -> None:
        values = np.where(t.getcol("FLAG"), 0, t.getcol("DATA"))
        shape = list(values.shape[1:])
        column = tables.makearrcoldesc("CORRECTED_DATA", 0j, shape=shape, valuetype="complex", options=5)
        t.addcols(tables.maketabdesc(column), {"TYPE": manager, "NAME": "compressed", "SPEC": options})
        t.putcol("CORRECTED_DATA", values)

    def keep(t: tables.table) -> None:
        t.putcol("DATA", stored[0])

    for folder in ("compressed", "plain"):
        (tmp_path / folder).mkdir()
    compressed = altered(tiny_ms.ms, tmp_path / "compressed", compress)
    with tables.table(str(compressed), ack=False) as t:
        stored.append(t.getcol("CORRECTED_DATA"))
    plain = altered(tiny_ms.ms, tmp_path / "plain", keep)
    found, expected = (
        planes(image(ms, tmp_path / ms.parent.name / "cube", niter=0), "residual") for ms in (compressed, plain)
    )
    np.testing.assert_array_equal(found, expected)


def with_uvw(*uvw: float) -> Callable[[tables.table], None]:
    """One good row has other uvw, in metres."""

    def change(t: tables.table) -> None:
        t.putcell("UVW", int(np.flatnonzero(~t.getcol("FLAG_ROW"))[100]), np.array(uvw))

    return change


def test_baselines_off_the_grid_do_not_decide_on_w(tiny_ms: Any, tmp_path: Path) -> None:
    store = ingest(altered(tiny_ms.ms, tmp_path, with_uvw(1e6, 1e6, 1e6)), tmp_path / "odd")
    before = ingest(tiny_ms.ms, tmp_path / "before")
    assert store.max_uvw_wavelengths()[1] > 1e6
    assert store.max_uvw_wavelengths(5000.0, 5000.0)[1] == pytest.approx(before.max_uvw_wavelengths()[1], rel=0.01)


def test_a_sample_off_the_grid_costs_no_planes_of_w(tiny_ms: Any, tmp_path: Path) -> None:
    """With its 10,000 planes this would take minutes; and the others have the image that they have without it."""
    options = {"gridder": "wgridder", "niter": 50, "cell": "20arcsec", "imsize": 256, "nchan": 1, "start": 5}
    with pytest.warns(UserWarning, match="baselines are too long"):
        odd = image(altered(tiny_ms.ms, tmp_path, with_uvw(1e7, 1e7, 1e7)), tmp_path / "odd", **options)
    plain = image(tiny_ms.ms, tmp_path / "plain", **options)
    assert odd.channels[0].visibilities == plain.channels[0].visibilities - 1
    assert odd.channels[0].peak_residual == pytest.approx(plain.channels[0].peak_residual, rel=0.05)
