"""`keep_visibilities=True`: a later run with `restart=True` reads no MeasurementSet, and nothing else changes.

The oracle is the same pair of runs that keeps nothing. That no visibility was read from the MeasurementSet is shown by making
nonsense of its columns, with the sizes and times of its files as they were.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from events import AtStage, WhenSafe, interrupt
from jobs import altered, image, payload, tree
from refusals import refusing

import gpucube
from gpucube import cli, run
from gpucube.errors import Interrupted
from gpucube.execution.tuning import Tuning
from gpucube.schema.parameters import make_parameters

FIRST: dict[str, Any] = {"nsigma": 20, "niter": 500, "products": ("image", "residual", "model"), "workers": 1}
SECOND: dict[str, Any] = FIRST | {"nsigma": 3, "restart": True}
AT_ONCE = Tuning(seconds_between_syncs=0.0)


@pytest.fixture(scope="module")
def ms(make_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = make_ms(antennas=8, ntime=8, nchan=5).ms
    return path


@pytest.fixture(scope="module")
def first(ms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shallow clean called ``x`` that has kept its visibilities, with its MeasurementSet."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(ms, folder / "a.ms")
    image(folder / "a.ms", folder / "x", keep_visibilities=True, **FIRST)
    return folder


@pytest.fixture
def here(first: Path, tmp_path: Path) -> Path:
    """A copy of ``first`` for one test, in which every file has the time of the original."""
    shutil.copytree(first, tmp_path / "here")
    return tmp_path / "here"


def without(here: Path, **changes: Any) -> dict[str, bytes]:
    """What a restart makes where no visibilities were kept."""
    plain = here.parent / "plain"
    shutil.copytree(here, plain, ignore=shutil.ignore_patterns("x.visibilities"))
    summary = plain / "x.summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"visibilities": ""}))
    result = image(here / "a.ms", plain / "x", **(SECOND | changes))
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    return payload(result)


def spoil(ms: Path) -> None:
    """Make nonsense of visibilities, flags, weights and uvw, behind the back of whoever looks at sizes and times."""
    times = {path: path.stat() for path in ms.rglob("*")}
    with tables.table(str(ms), readonly=False, ack=False) as t:
        for column in ("DATA", "FLAG", "WEIGHT", "UVW"):
            t.putcol(column, np.ones_like(t.getcol(column)))
    for path, before in times.items():
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


MAY_CHANGE: dict[str, dict[str, Any]] = {
    "a lower threshold": {},
    "more products": {"pbcor": True, "products": ("image", "psf"), "restoringbeam": "common"},
    "mask, deconvolver and workers": {
        **{"mask": "box[[20pix, 20pix], [40pix, 40pix]]", "deconvolver": "multiscale", "scales": [0, 3], "gain": 0.2},
        **{"workers": 2, "chunksize": 1},
    },
    "pixels, weights and gridder": {
        **{"imsize": 80, "cell": "15arcsec", "robust": -1, "uvtaper": "60arcsec", "gridder": "wgridder"},
    },
    "the same selection in other words": {"spw": "0:0~4", "start": 0, "nchan": 5, "field": 0},
    "one density of all channels": {"weighting": "superuniform"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MAY_CHANGE)
def test_a_restart_takes_the_visibilities_that_were_kept(name: str, here: Path) -> None:
    changes = MAY_CHANGE[name]
    expected = without(here, **changes)
    spoil(here / "a.ms")
    before = {path: path.stat().st_mtime_ns for path in (here / "x.visibilities").iterdir()}
    result = image(here / "a.ms", here / "x", **(SECOND | changes))
    assert payload(result) == expected
    assert result.summary["ms_bytes_read"] == 0
    assert result.visibilities == f"visibilities read from {here / 'x.visibilities'} instead of the MeasurementSets"
    assert result.visibilities in repr(result)
    assert {path: path.stat().st_mtime_ns for path in (here / "x.visibilities").iterdir()} == before
    assert not (here / "x.scratch").exists()


def test_the_run_that_keeps_them_makes_the_same_cube(ms: Path, first: Path, tmp_path: Path) -> None:
    kept = gpucube.open_run(first / "x")
    assert kept.visibilities == f"visibilities kept in {first / 'x.visibilities'}"
    assert payload(kept) == payload(image(ms, tmp_path / "x", **FIRST))


MUST_NOT_CHANGE: dict[str, tuple[dict[str, Any], str]] = {
    "phase centre": ({"phasecenter": "J2000 12h30m2s 30d0m0s"}, "the phase centres differ"),
    "rows": ({"antenna": "0~6&"}, "the selected rows differ"),
    "Stokes parameters": ({"stokes": "pseudoI"}, "the Stokes parameters differ"),
    "continuum": ({"contsubspw": "0:0~1;4"}, "the fits of the continuum differ"),
    "channel width": ({"width": 2}, "the channels differ"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MUST_NOT_CHANGE)
def test_another_selection_is_read_from_the_measurementset(name: str, here: Path) -> None:
    changes, why = MUST_NOT_CHANGE[name]
    expected = without(here, **changes)
    line = (
        f"the visibilities in {here / 'x.visibilities'} are not used, because {why}: the MeasurementSets are read again"
    )
    result = image(here / "a.ms", here / "x", **(SECOND | changes))
    assert payload(result) == expected
    assert line in result.summary["warnings"]
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    assert result.visibilities == ""
    back = image(here / "a.ms", here / "x", **SECOND)
    assert back.summary["ms_bytes_read"] == 0, "they stay for the first selection, since nobody asked for others"


def newer(here: Path) -> None:
    os.utime(here / "a.ms" / "table.dat")


def damaged(here: Path) -> None:
    os.truncate(here / "x.visibilities" / "partition0.vis", 1000)


def unfinished(here: Path) -> None:
    (here / "x.visibilities" / "store.json").unlink()


def without_recipe(here: Path) -> None:
    change_state(here, recipe={})


def without_partitions(here: Path) -> None:
    change_state(here, partitions=[])


def change_state(here: Path, **changes: object) -> None:
    state = here / "x.visibilities" / "store.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | changes))


def gone(here: Path) -> None:
    shutil.rmtree(here / "x.visibilities")


@pytest.mark.parametrize(
    ("happens", "line"),
    [
        (newer, "are not used, because the files of the MeasurementSet differ: the MeasurementSets are read again"),
        (damaged, "are not used, because they are incomplete or damaged: the MeasurementSets are read again"),
        (unfinished, "are not used, because they are incomplete or damaged: the MeasurementSets are read again"),
        (without_recipe, "are not used, because they are incomplete or damaged: the MeasurementSets are read again"),
        (
            without_partitions,
            "are not used, because they are incomplete or damaged: the MeasurementSets are read again",
        ),
        (gone, "are gone: the MeasurementSets are read again"),
    ],
)
def test_what_cannot_be_trusted_is_read_again_and_said(happens: Callable[[Path], None], line: str, here: Path) -> None:
    expected = without(here)
    happens(here)
    with pytest.warns(UserWarning, match=line):
        result = image(here / "a.ms", here / "x", keep_visibilities=True, **SECOND)
    assert payload(result) == expected
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    assert result.visibilities == f"visibilities kept in {here / 'x.visibilities'}"
    again = image(here / "a.ms", here / "x", **SECOND)
    assert again.summary["ms_bytes_read"] == 0, "they were kept anew"


@pytest.mark.parametrize("folder", ["x.visibilities", "x.visibilities/scratch", "link"])
def test_the_kept_folder_is_never_scratch(folder: str, here: Path) -> None:
    (here / "link").symlink_to("x.visibilities")
    before = {path: path.read_bytes() for path in here.glob("x.visibilities/*")}
    with pytest.raises(gpucube.GpucubeError, match="where visibilities are kept: name another with `scratch`"):
        image(here / "a.ms", here / "x", scratch=here / folder, **SECOND)
    assert before and before == {path: path.read_bytes() for path in here.glob("x.visibilities/*")}


def test_files_may_be_moved(here: Path) -> None:
    """The MeasurementSet and the run, to other folders and names."""
    expected = without(here)
    (here / "elsewhere").mkdir()
    (here / "a.ms").rename(here / "elsewhere" / "b.ms")
    for path in here.glob("x.*"):
        path.rename(here / "elsewhere" / path.name.replace("x.", "y."))
    result = image(here / "elsewhere" / "b.ms", here / "elsewhere" / "y", **SECOND)
    assert result.summary["ms_bytes_read"] == 0
    assert payload(result) == expected


def test_the_tables_of_the_measurementset_are_needed(here: Path) -> None:
    shutil.rmtree(here / "a.ms")
    with pytest.raises(gpucube.GpucubeError, match=r"no such MeasurementSet: .*a\.ms$"):
        image(here / "a.ms", here / "x", **SECOND)


def test_a_new_run_replaces_them_only_if_it_may(here: Path) -> None:
    for path in here.glob("x.*.*"):
        path.unlink()
    with pytest.raises(gpucube.GpucubeError, match=r"x\.visibilities exists: .*`overwrite=True`"):
        image(here / "a.ms", here / "x", **FIRST)
    result = image(here / "a.ms", here / "x", overwrite=True, **FIRST)
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    assert not (here / "x.visibilities").exists()


def test_a_folder_of_the_user_stays(ms: Path, tmp_path: Path) -> None:
    (tmp_path / "x.visibilities").mkdir()
    (tmp_path / "x.visibilities" / "notes").touch()
    with pytest.raises(
        gpucube.GpucubeError, match=r"x\.visibilities already exists and has no visibilities of gpucube"
    ):
        image(ms, tmp_path / "x", overwrite=True, keep_visibilities=True, **FIRST)
    image(ms, tmp_path / "x", overwrite=True, **FIRST)
    assert (tmp_path / "x.visibilities" / "notes").exists()


def test_the_plan_says_what_is_read_and_what_is_kept(here: Path) -> None:
    settings = {"imsize": 64, "cell": "20arcsec"} | SECOND
    parameters = make_parameters(vis=here / "a.ms", imagename=here / "x", **settings)
    text = str(run.plan(parameters)[0])
    assert f"read       visibilities from {here / 'x.visibilities'} instead of the MeasurementSet\n" in text
    assert "scratch  " not in text
    some = run.plan(make_parameters(**parameters.as_json_dict() | {"start": 1, "nchan": 2, "keep_visibilities": True}))[
        0
    ]
    assert f"read       visibilities from {here / 'x.visibilities'} instead of the MeasurementSet\n" in str(some)
    # two of five channels, of 12 bytes a sample, and 28 bytes a row
    rows = (here / "x.visibilities" / "partition0.order").stat().st_size // 4
    assert some.scratch_bytes == rows * (2 * 12 + 28)
    assert f" in {here / 'x.scratch'}\n" in str(some)
    fresh = make_parameters(vis=here / "a.ms", imagename=here / "y", keep_visibilities=True, **settings)
    plan = run.plan(fresh)[0]
    on_disk = sum(p.stat().st_size for p in (here / "x.visibilities").glob("partition*"))
    assert plan.scratch_bytes == on_disk
    assert f"keep       {on_disk / 1e3:.3g} kB in {here / 'y.visibilities'}\n" in str(plan)


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_was_cut_off_is_resumed_with_the_same_bits(restart: bool, here: Path) -> None:
    settings = (SECOND if restart else FIRST) | {
        "keep_visibilities": True,
        "restoringbeam": "common",
        "products": ("image", "model"),
    }
    name = "x" if restart else "new"
    expected = without(here, **settings) if restart else payload(image(here / "a.ms", here / "usual", **settings))
    with pytest.raises(Interrupted):
        image(here / "a.ms", here / name, tuning=AT_ONCE, observer=WhenSafe(2, interrupt), chunksize=1, **settings)
    spoil(here / "a.ms")
    result = image(here / "a.ms", here / name, resume=True, **settings)
    assert result.summary["resumed_channels"] >= 2
    assert payload(result) == expected
    assert result.visibilities.endswith(f"{name}.visibilities" if not restart else "instead of the MeasurementSets")
    assert not (here / f"{name}.scratch").exists()


def test_a_run_that_fails_leaves_those_of_an_earlier_run_and_none_of_its_own(here: Path) -> None:
    before = tree(here)
    for name in ("x", "new"):
        with pytest.raises(KeyboardInterrupt):
            observer = AtStage("imaging", interrupt)
            image(here / "a.ms", here / name, observer=observer, keep_visibilities=True, **SECOND)
    assert set(before) - set(tree(here)) == {"x.image.fits", "x.residual.fits"}
    assert set(tree(here)) <= set(before)
    assert image(here / "a.ms", here / "x", **SECOND).summary["ms_bytes_read"] == 0


def test_a_store_that_cannot_be_kept_ends_the_run_in_one_line_and_resume_finishes_it(ms: Path, tmp_path: Path) -> None:
    settings = FIRST | {"keep_visibilities": True}
    expected = payload(image(ms, tmp_path / "usual", **settings))
    with refusing("open", errno.EIO, f"partition0.order {os.O_RDONLY}"), pytest.raises(gpucube.GpucubeError) as told:
        image(ms, tmp_path / "x", **settings)
    assert str(told.value) == (
        f"cannot keep the visibilities in {tmp_path / 'x.visibilities'}: Input/output error; 5 of 5 channels are safe on disk, "
        "the same call with `resume=True` continues the run"
    )
    assert payload(image(ms, tmp_path / "x", resume=True, **settings)) == expected
    assert image(ms, tmp_path / "x", **SECOND).summary["ms_bytes_read"] == 0


def test_the_command_line_and_tclean_have_it_too(ms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"imsize": 64, "cell": "20arcsec", "niter": 100, "quiet": True}
    options = [word for name, value in common.items() for word in (f"--{name}", str(value))][:-2]
    command = ["image", str(ms), "--imagename", str(tmp_path / "x"), "--quiet", *options]
    assert cli.main([*command, "--nsigma", "20", "--keep-visibilities"]) == 0
    assert f"data      visibilities kept in {tmp_path / 'x.visibilities'}\n" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="counts for each channel"):
        call = {"vis": str(ms), "imagename": str(tmp_path / "x"), "specmode": "cube", "nsigma": 3, **common}
        again = gpucube.tclean(**call, keep_visibilities=True)
    assert again["result"].summary["ms_bytes_read"] == 0


# A range of the channels


GRIDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "channels of the data": ({}, {"start": 1, "nchan": 2}),
    "another frame": (
        {"outframe": "TOPO", "start": "1420.42MHz", "width": "15kHz", "nchan": 6},
        {"outframe": "TOPO", "start": "1420.45MHz", "width": "15kHz", "nchan": 3},
    ),
}
"""All channels, and some of them. tests/data/test_copying.py has further ones."""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", GRIDS)
def test_a_range_of_the_channels_is_taken_from_those_that_were_kept(name: str, ms: Path, tmp_path: Path) -> None:
    whole, some = GRIDS[name]
    path = altered(ms, tmp_path, lambda t: t.putcol("FLAG", np.arange(t.nrows() * 10).reshape(-1, 5, 2) % 7 == 0))
    for imagename in ("x", "plain"):
        image(path, tmp_path / imagename, keep_visibilities=imagename == "x", **(FIRST | whole))
    expected = image(path, tmp_path / "plain", **(SECOND | some))
    spoil(path)
    result = image(path, tmp_path / "x", keep_visibilities=True, **(SECOND | some))
    assert payload(result) == payload(expected)
    assert result.summary["ms_bytes_read"] == 0
    assert result.visibilities == f"visibilities read from {tmp_path / 'x.visibilities'} instead of the MeasurementSets"
    for now, then in zip(result.channels, expected.channels, strict=True):
        assert (now.visibilities, now.lacking_fraction) == (then.visibilities, then.lacking_fraction)
    again = image(path, tmp_path / "x", **(SECOND | whole))
    assert again.summary["ms_bytes_read"] == 0, "all channels are still there"
    assert not (tmp_path / "x.scratch").exists()


def test_channels_that_were_not_kept_are_read(here: Path) -> None:
    """Also where only some of them are missing."""
    image(here / "a.ms", here / "x", **(SECOND | {"start": 1, "nchan": 2, "keep_visibilities": True}))
    assert gpucube.open_run(here / "x").summary["ms_bytes_read"] == 0
    shutil.rmtree(here / "x.visibilities")
    with pytest.warns(UserWarning, match="are gone"):
        image(here / "a.ms", here / "x", **(SECOND | {"start": 1, "nchan": 2, "keep_visibilities": True}))
    with pytest.warns(UserWarning, match="because the channels differ: the MeasurementSets are read again"):
        image(here / "a.ms", here / "x", **(SECOND | {"start": 2, "nchan": 2}))
