"""From parameters to the sources and axes of a cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import column

from gpucube.constants import ARCSEC
from gpucube.data.selection import choose_windows, select
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters


def test_the_axes_of_the_cube_come_from_parameters_and_measurementset(tiny_ms: Any) -> None:
    selection = select(
        make_parameters(vis=tiny_ms.ms, imagename="unused", imsize=[64, 32], cell="2arcsec", spw="0:2~9", stokes="IV")
    )
    geometry, axis = selection.geometry, selection.axis
    assert geometry.shape == (32, 64)
    assert (geometry.cell_x, geometry.cell_y) == pytest.approx((2 * ARCSEC, 2 * ARCSEC), rel=1e-15)
    phase_dir = column(Path(f"{tiny_ms.ms}/FIELD"), "PHASE_DIR")[0, 0]
    assert (geometry.centre.ra, geometry.centre.dec) == tuple(phase_dir)
    assert np.array_equal(axis.frequency, column(Path(f"{tiny_ms.ms}/SPECTRAL_WINDOW"), "CHAN_FREQ")[0, 2:10])
    assert axis.restfreq == column(Path(f"{tiny_ms.ms}/SOURCE"), "REST_FREQUENCY")[0, 0]
    assert selection.shape == (1, 2, 8)


def test_a_source_of_some_channels_reads_only_their_range(tiny_ms: Any) -> None:
    def channel_range(spw: str) -> tuple[int, int] | None:
        (source,) = select(make_parameters(vis=tiny_ms.ms, imagename="unused", spw=spw)).sources
        return source.channel_range

    assert channel_range("0") is None
    assert channel_range("0:0~11") is None
    assert channel_range("0:7;3~4") == (3, 7)


def test_parts_of_a_source_hold_its_rows_once(tiny_ms: Any) -> None:
    (source,) = select(make_parameters(vis=tiny_ms.ms, imagename="unused")).sources
    parts = [source.part(first, 400) for first in range(0, source.nrow, 400)]
    assert [part.nrow for part in parts] == [400, 400, 100]
    assert np.array_equal(np.concatenate([part.rows.number for part in parts]), np.arange(900))
    assert sum(part.bytes_selected() for part in parts) == source.bytes_selected()


@pytest.mark.parametrize(
    ("spw", "expected"),
    [
        ("", {0: None, 1: None, 2: None}),
        ("2,0", {2: None, 0: None}),
        ("1:3~5", {1: [3, 4, 5]}),
        ("1:3~5;1~2", {1: [3, 4, 5, 1, 2]}),
        ("*:0~1", {0: [0, 1], 1: [0, 1], 2: [0, 1]}),
        ("1:3~5,1:4~6", {1: [3, 4, 5, 6]}),
        ("1:3~5,1", {1: None}),
        ("1,1:3~5", {1: None}),
        ("0:1,0~1:3", {0: [1, 3], 1: [3]}),
    ],
)
def test_windows_and_channels_named_by_spw(spw: str, expected: dict[int, list[int] | None]) -> None:
    chosen = choose_windows(spw, 3)
    assert list(chosen) == list(expected)
    for window, channels in expected.items():
        assert (chosen[window] is None) == (channels is None)
        if channels is not None:
            assert chosen[window].tolist() == channels


def test_a_window_that_is_not_there_is_refused() -> None:
    with pytest.raises(GpucubeError, match="no spectral window 3, they are numbered 0 to 2"):
        choose_windows("1~3", 3)
