"""The scripts in examples/ run as they stand and print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: object) -> str:
    """What a script prints; it must end well and complain of nothing."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def imaged(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `image_one_ms.py` made, and what it printed."""
    imagename = tmp_path_factory.mktemp("examples") / "one"
    return imagename, run("image_one_ms.py", tiny_ms.ms, imagename)


def test_one_measurement_set_is_imaged(imaged: tuple[Path, str]) -> None:
    imagename, printed = imaged
    lines = printed.splitlines()
    assert [int(line.split()[0]) for line in lines[1:13]] == list(range(12))
    assert sum("n-sigma threshold" in line for line in lines) == 11
    assert sum("no data" in line for line in lines) == 1
    assert lines[-1] == f"restored cube: {imagename}.image.fits"


def test_results_are_read(imaged: tuple[Path, str]) -> None:
    printed = run("read_results.py", imaged[0])
    assert "11 channels: n-sigma threshold" in printed
    noise = float(re.search(r"median noise (\S+) mJy/beam", printed)[1])
    # 50 mJy in each of 900 rows and two hands, of which some are flagged and Briggs weights count unequally
    assert noise == pytest.approx(50 / np.sqrt(2 * 900), rel=0.1)
    assert 3 <= int(re.search(r"brightest channel (\d+)", printed)[1]) <= 8
    assert Path(f"{imaged[0]}.moment0.fits").is_file()


def test_a_cluster_images_the_same_cube(imaged: tuple[Path, str], tiny_ms: Any, tmp_path: Path) -> None:
    printed = run("image_on_a_cluster.py", tiny_ms.ms, tmp_path / "many")
    assert "12 channels were imaged by 2 workers" in printed
    assert (tmp_path / "many.image.fits").is_file()


def test_every_example_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))
