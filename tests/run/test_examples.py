"""What the README shows and the scripts in examples/ do run, and print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from gpucube.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def readme(pattern: str) -> list[str]:
    """Parts of the README."""
    return re.findall(pattern, (EXAMPLES.parent / "README.md").read_text(), re.M | re.S)


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
    assert "n-sigma threshold: 11; no data: 1" in printed
    assert len(re.findall(r"^channel \d+: ", printed, re.M)) == 11
    noise = float(re.search(r"noise +(\S+) mJy/beam", printed)[1])
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


def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = readme(r"^    gpucube (\w[^\n]+)$")
    assert [command.split()[0] for command in commands] == ["simulate", "plan", "image", "report"]
    for command in commands:
        assert main(command.replace("--nchan 60", "--nchan 3 --ntime 20").split()) == 0
    assert Path("out/sim.image.fits").is_file() and Path("out/sim.report.html").is_file()


@pytest.mark.filterwarnings("ignore")  # of spectral-cube, radio_beam and astropy
def test_the_python_of_the_readme_runs(tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = readme(r"```python\n(.+?)```")
    changes = {"target.ms": str(tiny_ms.ms), "out/target": str(tmp_path / "target"), "512": "64", "1arcsec": "20arcsec"}
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    exec(code, {"__name__": "__main__"})
    assert "12" in capsys.readouterr().out


def test_the_tutorial_needs_fewer_lines_than_casa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CASA takes nine lines from the dirty cube to the moment map. The oracle of the flux is the simulated sky."""
    page = (EXAMPLES.parent / "docs" / "tutorial.md").read_text()
    code = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S))
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 7 and "seven lines" in page
    monkeypatch.chdir(tmp_path)
    assert main(re.search(r"^    gpucube (simulate .+)$", page, re.M)[1].split()) == 0
    made: dict[str, Any] = {}
    exec(code.replace("pbcor=True)", "pbcor=True, quiet=True)"), made)
    clean, deep = made["clean"], made["deep"]
    for first, last in zip(clean.channels, deep.channels, strict=True):
        assert last.model_flux >= first.model_flux
        assert last.stop_reason in ("n-sigma threshold", "zero mask", "no data")
    assert (clean.summary["ms_bytes_read"] > 0, deep.summary["ms_bytes_read"]) == (True, 0)
    truth = np.load("galaxy.truth.npz")["flux"].sum(axis=0)
    line = float((truth - truth[0]).sum())  # the first channel has continuum alone
    # what is fainter than two sigma stays in the residual
    assert sum(c.model_flux for c in deep.channels) == pytest.approx(line, rel=0.02)
    assert sum(c.model_flux for c in clean.channels) < 0.99 * line
    assert fits.getdata("out/galaxy.moment0.fits").shape == (64, 64)
