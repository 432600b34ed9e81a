"""Whatever a run is asked to do, one that was cut off and resumed gives the bits of one that was not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from jobs import image, payload
from refusals import in_text, seen_by

import gpucube
from gpucube.execution.tuning import Tuning

FEATURES: dict[str, dict[str, Any]] = {
    "automatic masks": {"usemask": "auto-multithresh"},
    "masks of the primary beam": {"usemask": "pb", "pbmask": 0.3},
    "continuum subtraction": {"contsubspw": "0:0~2;9~11", "contsuborder": 1},
    "a frame, a cubic grid, one density": {"outframe": "BARY", "interpolation": "cubic", "perchanweightdensity": False},
    "several scales": {"deconvolver": "multiscale", "scales": (0, 3, 8)},
}
"""`gpucube.image_cube` with what needs more than the residual of a channel. A restart is in test_start_model.py."""


@pytest.fixture(scope="module")
def ms(make_ms: Any) -> Path:
    path: Path = make_ms(antennas=8, ntime=6).ms
    return path


def cut_off(ms: Path, name: Path, safe: int, **settings: Any) -> None:
    """Begin a run that ends in the middle of the imaging, when so many channels are safe."""
    noted = []

    def no_more(call: str, arguments: tuple[Any, ...]) -> None:
        text = in_text(arguments)
        if len(noted) >= safe and call == "pwrite":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if call == "write" and '{"channel"' in text:
            noted.append(text)

    with seen_by(no_more), pytest.raises(gpucube.GpucubeError, match="channels are safe on disk"):
        image(ms, name, tuning=Tuning(seconds_between_syncs=0.0), **settings)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FEATURES)
def test_a_run_that_was_cut_off_is_finished_with_the_same_bits(name: str, ms: Path, tmp_path: Path) -> None:
    settings = {"workers": 1, "chunksize": 1} | FEATURES[name]
    usual = payload(image(ms, tmp_path / "usual", **settings))
    cut_off(ms, tmp_path / "cut", 3, **settings)
    assert payload(image(ms, tmp_path / "cut", resume=True, **settings)) == usual
