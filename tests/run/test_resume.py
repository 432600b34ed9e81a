"""A run may be cut off anywhere: what was journalled is kept, the rest is made again, and the bits are the same.

Processes are really killed, files really damaged. The undisturbed run of the same parameters is the oracle: every product
must be identical to it in every byte.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from astropy.io import fits
from casacore import tables
from events import AtStage, WhenSafe, interrupt
from torture import Cluster, ended, finish, left_behind, payload, safe_channels, start, torture

import gpucube
from gpucube import run
from gpucube.execution.tuning import DEFAULT_TUNING, Tuning
from gpucube.output.fingerprint import difference, fingerprint
from gpucube.output.paths import RunPaths
from gpucube.run import NO_OBSERVER, Observer
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import SimulationResult

OPTIONS = {
    "imsize": 64,
    "cell": "20arcsec",
    "weighting": "briggs",
    "gridder": "standard",
    "niter": 500,
    "nsigma": 3,
    "products": ("image", "residual", "model", "psf", "dirty"),
    "quiet": True,
}


def image(
    ms: SimulationResult,
    imagename: Path,
    tuning: Tuning = DEFAULT_TUNING,
    observer: Observer = NO_OBSERVER,
    **changes: object,
) -> gpucube.Result:
    parameters = make_parameters(vis=ms.ms, imagename=imagename, **(OPTIONS | changes))
    return run.image(parameters, tuning=tuning, observer=observer)


@pytest.fixture(scope="module")
def line_ms(make_ms) -> SimulationResult:  # type: ignore[no-untyped-def]
    return make_ms(nchan=24, ntime=30)


def test_resume_of_nothing_is_a_run_and_of_a_finished_run_is_its_result(
    line_ms: SimulationResult, tmp_path: Path
) -> None:
    first = image(line_ms, tmp_path / "cube", resume=True)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = image(line_ms, tmp_path / "cube", resume=True)
    assert again.channels == first.channels and again.products == first.products
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps, "nothing was touched"
    assert not Path(RunPaths(str(tmp_path / "cube")).journal).exists()


ONE_OF_EACH = [
    ("threads", "main"),
    ("local", "main"),
    ("local", "worker"),
    ("cluster", "worker"),
    ("cluster", "scheduler"),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("ways", "changes"),
    [
        (ONE_OF_EACH, {}),
        (
            [("threads", "main")] * 3,
            {"restoringbeam": "common", "products": "image", "pbcor": True, "keep_visibilities": True},
        ),
    ],
    ids=["each way", "common beam, kept visibilities"],
)
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    line_ms: SimulationResult, tmp_path: Path, ways: list[tuple[str, str]], changes: dict
) -> None:
    # a fixed seed, so that a failure repeats; `make torture` draws a new one for each of its runs
    seed = int(os.environ.get("GPUCUBE_TEST_SEED", "20261122"))
    print(f"GPUCUBE_TEST_SEED={seed}")
    assert len(torture(Path(line_ms.ms), tmp_path, ways, seed, **changes)) == len(ways)


def interrupted(ms: SimulationResult, imagename: Path, after: int, **changes: object) -> str:
    """Run until `after` channels are journalled, then stop as Ctrl-C would; returns the message."""
    at_once, observer = Tuning(seconds_between_syncs=0.0), WhenSafe(after, interrupt)
    with pytest.raises(KeyboardInterrupt) as stop:
        image(ms, imagename, workers=1, tuning=at_once, observer=observer, **changes)
    return str(stop.value)


def test_ctrl_c_says_how_to_go_on_and_only_unfinished_channels_are_made_again(
    line_ms: SimulationResult, tmp_path: Path
) -> None:
    message = interrupted(line_ms, tmp_path / "cube", 7)
    assert "channels are safe on disk, the same call with `resume=True` continues" in message
    with pytest.raises(gpucube.GpucubeError, match="unfinished run: `resume=True` continues it"):
        image(line_ms, tmp_path / "cube")
    result = image(line_ms, tmp_path / "cube", resume=True)
    assert result.summary["resumed_channels"] >= 7
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".fits"] * 5 + [".json"]


def test_interrupted_before_any_channel_is_safe_leaves_nothing(line_ms: SimulationResult, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        image(line_ms, tmp_path / "new" / "cube", observer=AtStage("imaging", interrupt))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_parameter_or_ms_makes_resume_refuse_and_name_it(
    make_ms,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    ms = make_ms()
    interrupted(ms, tmp_path / "cube", 3)
    with pytest.raises(gpucube.GpucubeError, match=r"robust was 0\.5 and is 1\.0") as refusal:
        image(ms, tmp_path / "cube", resume=True, robust=1.0)
    assert "\n" not in str(refusal.value)
    os.utime(next(Path(ms.ms).glob("table.f*")), (1, 1))
    with pytest.raises(gpucube.GpucubeError, match=r"sim\.ms has changed"):
        image(ms, tmp_path / "cube", resume=True)
    # what does not change the bits may change
    assert difference(*(fingerprint({"vis": [], "imagename": "a", "workers": n}, "cpu", "1") for n in (1, 2))) == ""


def test_a_changed_table_that_a_measurement_set_refers_to_makes_resume_refuse(make_ms: Any, tmp_path: Path) -> None:
    whole, part = make_ms(ntime=2).ms, tmp_path / "part.ms"
    with tables.table(str(whole), ack=False) as t:
        t.query("ANTENNA1 < 5").copy(str(part), deep=False).close()
    asked: dict[str, Any] = {"imagename": tmp_path / "cube", "imsize": 64, "cell": "20arcsec", "quiet": True}
    gpucube.image_cube(part, **asked)
    gpucube.image_cube(part, **asked, resume=True)
    os.utime(next(Path(whole).glob("table.f*")), (1, 1))
    with pytest.raises(gpucube.GpucubeError, match=r"sim\.ms has changed"):
        gpucube.image_cube(part, **asked, resume=True)


@pytest.mark.parametrize("damage", ["plane", "journal cut", "journal garbage", "store cut", "store gone", "cube gone"])
def test_damage_is_found_and_made_good(line_ms: SimulationResult, tmp_path: Path, damage: str) -> None:
    whole = tmp_path / "whole" / "cube"
    image(line_ms, whole)
    cube = tmp_path / "damaged" / "cube"
    interrupted(line_ms, cube, 9)
    journal, scratch = Path(RunPaths(str(cube)).journal), Path(f"{cube}.scratch")
    lines = journal.read_bytes().splitlines(keepends=True)
    if damage == "plane":
        channel = json.loads(lines[1])["channel"]
        with open(f"{cube}.image.fits", "r+b") as file:
            offset = json.loads(lines[0])["cubes"]["image"]["data_offset"]
            file.seek(offset + channel * 64 * 64 * 4 + 1000)
            file.write(b"\x12\x34\x56")
    elif damage == "journal cut":
        journal.write_bytes(b"".join(lines[:4]) + lines[4][:50])
    elif damage == "journal garbage":
        journal.write_bytes(b"".join(lines[:3]) + b'{"not": "a record"}\n' + lines[4])
    elif damage == "store cut":
        os.truncate(scratch / "partition0.vis", 1000)
    elif damage == "store gone":
        (scratch / "store.json").unlink()
    else:
        Path(f"{cube}.model.fits").unlink()
    if damage == "cube gone":
        with pytest.raises(gpucube.GpucubeError, match=r"cube\.model\.fits is gone or cut short"):
            image(line_ms, cube, resume=True)
        return
    result = image(line_ms, cube, resume=True)
    for name, path in result.products.items():
        if name != "summary":
            ours, theirs = Path(path).read_bytes(), Path(f"{whole}.{name}.fits").read_bytes()
            header = 2880 * (
                len(theirs) // 2880 - len(theirs[json.loads(lines[0])["cubes"][name]["data_offset"] :]) // 2880
            )
            assert ours[header:] == theirs[header:], name


def test_the_second_of_two_runs_on_one_imagename_ends_in_one_line(line_ms: SimulationResult, tmp_path: Path) -> None:
    journal = open(RunPaths(str(tmp_path / "cube")).journal, "w")  # noqa: SIM115
    fcntl.flock(journal, fcntl.LOCK_EX)
    for changes in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(gpucube.GpucubeError, match=r"another run is making .*cube now"):
            image(line_ms, tmp_path / "cube", **changes)
    journal.close()
    image(line_ms, tmp_path / "cube", overwrite=True)


def test_sigterm_ends_tidily_with_one_line(line_ms: SimulationResult, tmp_path: Path) -> None:
    arguments = [
        "image",
        str(line_ms.ms),
        "--imagename",
        str(tmp_path / "cube"),
        "--imsize",
        "64",
        "--cell",
        "20arcsec",
    ]
    run = subprocess.Popen(
        [sys.executable, "-m", "gpucube", *arguments, "--quiet", "--niter", "1000", "--nsigma", "3"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while run.poll() is None and not (tmp_path / "cube.journal").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    if run.returncode != 0:  # it may have been quicker
        assert run.returncode == 130
        assert "Traceback" not in errors and "interrupted" in errors


def test_ctrl_c_ends_threads_in_the_midst_of_a_channel(line_ms: SimulationResult, tmp_path: Path) -> None:
    """Every channel takes minutes: a thread ends after the cycle it is in."""
    folder = tmp_path / "stopped"
    endless = {"gain": 0.05, "cycleniter": 1, "niter": 10**8, "threshold": "1nJy", "nsigma": 0, "imsize": 512}
    run = start(Path(line_ms.ms), folder, "threads", **endless)
    while run.poll() is None and not (folder / "run" / "cube.journal").exists():
        time.sleep(0.01)
    time.sleep(1)
    begun = time.monotonic()
    run.send_signal(signal.SIGINT)
    errors = ended(run)
    assert time.monotonic() - begun < 10
    assert run.returncode == 130
    assert errors == "\ngpucube: interrupted\n"
    assert list(folder.iterdir()) == [], "nothing was safe, nothing is left"


@pytest.fixture(scope="module")
def undisturbed(line_ms: SimulationResult, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(start(Path(line_ms.ms), folder, "threads"), folder)


@pytest.mark.parametrize(("to", "moment"), [("all", "imaging"), ("main", "starting")])
def test_ctrl_c_ends_a_local_cluster_within_seconds(
    line_ms: SimulationResult, undisturbed: dict[str, bytes], tmp_path: Path, to: str, moment: str
) -> None:
    """A terminal sends the signal to the workers, too; a batch system to the main process alone."""
    ms, folder = Path(line_ms.ms), tmp_path / "stopped"
    run = start(ms, folder, "local", chunksize=1)
    while run.poll() is None and not (
        safe_channels(folder) >= 3
        if moment == "imaging"
        else len(psutil.Process(run.pid).children(recursive=True)) >= 2
    ):
        time.sleep(0.01)
    begun = time.monotonic()
    (os.killpg if to == "all" else os.kill)(run.pid, signal.SIGINT)
    errors = ended(run)
    took = time.monotonic() - begun
    print(f"ended within {took:.2f} s")
    assert took < 10
    assert left_behind(run, 2) == []
    assert run.returncode == 130
    told = [line for line in errors.splitlines() if line]
    assert len(told) == 1 and told[0].startswith("gpucube: interrupted"), errors
    if moment == "imaging":
        assert "of 24 channels are safe on disk, the same call with --resume continues" in told[0]
    else:
        assert list(folder.iterdir()) == [], "nothing was safe, nothing is left"
    assert finish(start(ms, folder, "threads", resume=True), folder) == undisturbed


def test_tasks_that_outlive_their_run_on_a_cluster_write_no_more(line_ms: SimulationResult, tmp_path: Path) -> None:
    """A scheduler of one's own goes on with the tasks it has begun; the next run must not find their planes in its cubes."""
    from distributed import Client

    ms, quick = Path(line_ms.ms), {"niter": 0, "imsize": 72}
    expected = finish(start(ms, tmp_path / "whole", "threads", **quick), tmp_path / "whole")
    folder, cluster = tmp_path / "late", Cluster(tmp_path)
    try:
        cluster.start()
        with Client(cluster.address, set_as_default=False) as client:

            def at_work() -> int:
                return sum(client.run(lambda dask_worker: len(dask_worker.active_threads)).values())

            # one chunk for each worker, seconds long: their planes come one after the other
            run = start(ms, folder, "cluster", cluster.address, cycleniter=2, gain=0.003, chunksize=12)
            while run.poll() is None and not begun_to_write(folder):
                time.sleep(0.01)
            run.kill()
            ended(run)
            assert at_work(), "this test needs tasks that are at work still"
            finish(start(ms, folder, "threads", overwrite=True, **quick), folder)
            until = time.monotonic() + 120
            while at_work() and time.monotonic() < until:
                time.sleep(0.1)
        assert payload(folder) == expected
    finally:
        cluster.stop()


def begun_to_write(folder: Path) -> bool:
    """Whether any plane of the PSF is in its cube; nothing but zeros before."""
    try:
        return bool(fits.getdata(folder / "run" / "cube.psf.fits").any())
    except FileNotFoundError:
        return False


def test_a_journal_of_another_format_is_refused(line_ms: SimulationResult, tmp_path: Path) -> None:
    Path(RunPaths(str(tmp_path / "cube")).journal).write_text('{"format": 99, "fingerprint": {}, "cubes": {}}\n')
    with pytest.raises(gpucube.GpucubeError, match="has format 99, this version knows 3"):
        image(line_ms, tmp_path / "cube", resume=True)


def test_a_linked_journal_is_not_followed(line_ms: SimulationResult, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    Path(RunPaths(str(tmp_path / "cube")).journal).symlink_to(precious)
    with pytest.raises(gpucube.GpucubeError, match="journal"):
        image(line_ms, tmp_path / "cube", overwrite=True)
    assert precious.read_text() == "mine"
