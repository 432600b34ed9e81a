"""File names of a run follow from `imagename` and `scratch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpucube.output.paths import RunPaths


def test_the_names_are_those_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = RunPaths("out/target")
    assert paths.product("image") == "out/target.image.fits"
    assert (paths.summary, paths.journal, paths.report) == tuple(
        f"out/target.{end}" for end in ("summary.json", "journal", "report.html")
    )
    assert paths.folder == tmp_path / "out"
    # absolute: workers of an existing cluster run in another folder
    assert paths.scratch_folder == str(tmp_path / "out" / "target.scratch")
    assert RunPaths("out/target", "fast").scratch_folder == str(tmp_path / "fast")
    assert paths.working.product("model") == str(tmp_path / "out" / "target.scratch" / "work.model.fits")


def test_products_and_summary_of_an_earlier_run_are_found_even_as_dangling_links(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path / "cube"))
    assert paths.existing() == []
    (tmp_path / "cube.psf.fits").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cube.summary.json").touch()
    (tmp_path / "cube.journal").touch()
    (tmp_path / "cube2.image.fits").touch()
    assert [path.name for path in paths.existing()] == ["cube.psf.fits", "cube.summary.json"]
