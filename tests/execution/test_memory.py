"""Memory does not grow with the number of channels and stays within the budget, and a run keeps few files."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import make_ms, watch

CHEAP = {"cycleniter": -1, "gain": 0.1, "majorcycle": "auto"}


@pytest.fixture(scope="module")
def many_channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ms(tmp_path_factory.mktemp("many"), nchan=600, antennas=8, ntime=10)


def test_memory_and_files_do_not_grow_with_the_channels(many_channels: Path, tmp_path: Path) -> None:
    seen = watch(many_channels, tmp_path / "work", "local", warm_up=150, **CHEAP)
    assert len(seen.early) == 4, "the main process, two workers, and all together"
    assert seen.growth < 0.05
    # five products, summary and journal; Dask's lock files
    assert seen.files <= 20
    assert seen.summary["memory_peak"] <= seen.summary["memory_predicted"]


@pytest.mark.parametrize("gridder", ["standard", "wgridder"])
def test_a_cube_larger_than_the_budget_streams_through(many_channels: Path, tmp_path: Path, gridder: str) -> None:
    """1.2 GB of planes go through 340 MB, two thirds of which the interpreter and its libraries take."""
    seen = watch(
        many_channels, tmp_path / "work", "threads", warm_up=0, imsize=320, niter=0, memory="340MB", gridder=gridder
    )
    summary = seen.summary
    planes = 5 * 600 * 320 * 320 * 4
    assert planes > 3 * summary["parameters"]["memory"]
    assert summary["memory_peak"] <= summary["memory_predicted"] <= summary["parameters"]["memory"]
    # a prediction far too high would keep workers idle
    assert summary["memory_predicted"] < 1.5 * summary["memory_peak"]
