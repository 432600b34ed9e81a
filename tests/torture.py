"""Fault injection: processes of a run are killed at random moments, and the products must have the same bytes.

In: a number of kills and a seed. Out: one line for each kill, and exit status 0 if every run ended with the bytes of the
undisturbed run. A run takes place in threads of one process, on a local cluster, or on a cluster that existed before. The
victim is the main process, a worker or the scheduler. A run must survive the loss of a worker by itself. Without its
scheduler it must end with one line. After that, and after the loss of the main process, the same call with `resume`
must finish it. A run that begins in one place is resumed in another.

Then calls of the file system are refused: one at a random moment, or all of its name from then on, with a random errno.
A run must end with the same bytes, or with one line. After one line, nothing may be left behind unless channels are safe,
and the same call (with `resume` if they are) must give the same bytes.

`make torture` runs this with 50 kills and 200 refusals. In tests/run, test_resume.py kills once in every way, and
test_file_systems.py refuses a few times.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from jobs import image
from jobs import payload as content
from refusals import seen_by

from gpucube.errors import GpucubeError
from gpucube.execution.tuning import Tuning

OPTIONS = {
    "device": "cpu",
    "imsize": 64,
    "cell": "20arcsec",
    "weighting": "briggs",
    "gridder": "standard",
    "niter": 2000,
    "gain": 0.03,
    "cycleniter": 12,
    "nsigma": 2.5,
    "majorcycle": "visibility",
    "workers": 2,
    "products": "image,residual,model,psf,dirty",
}
"""Options of every run: many cheap major cycles, so that there are many moments at which it can be killed."""

WAYS = (
    ("threads", "main"),
    ("local", "main"),
    ("local", "worker"),
    ("cluster", "main"),
    ("cluster", "worker"),
    ("cluster", "scheduler"),
)
"""Where a run takes place, and which of its processes is killed."""

TIMEOUT = 180
"""Seconds after which a run counts as hung."""


class Torture(AssertionError):
    """A promise that was not kept."""


class Cluster:
    """A Dask scheduler and two workers with their nannies, each in a process of its own on the loopback interface."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self.address = ""

    def start(self) -> None:
        """Start the processes that are not running."""
        if self.address and self.scheduler.poll() is None:
            return
        self.stop()
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self._run("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        until = time.monotonic() + 60
        while not self.address:
            if time.monotonic() > until:
                raise Torture("the Dask scheduler did not start")
            with contextlib.suppress(OSError, ValueError):
                self.address = json.loads(file.read_text())["address"]
            time.sleep(0.05)
        self._run(
            "worker", self.address, "--host", "127.0.0.1", "--nworkers", "2", "--nthreads", "1",
            "--local-directory", str(self._folder / "dask"),
        )  # fmt: skip
        while len(self.workers()) < 2 and time.monotonic() < until:
            time.sleep(0.05)

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # not the folder of the runs: paths must not depend on it
        self._processes.append(subprocess.Popen(command, cwd=self._folder, start_new_session=True, **quiet))

    @property
    def scheduler(self) -> subprocess.Popen:
        """The scheduler's process."""
        return self._processes[0]

    def workers(self) -> list[psutil.Process]:
        """The workers' processes."""
        return worker_processes(self._processes[1].pid)

    def stop(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            kill_group(process)
        self._processes, self.address = [], ""


def worker_processes(parent: int) -> list[psutil.Process]:
    """The Dask workers among the descendants of a process."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
    return found


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and the group that it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def left_behind(leader: subprocess.Popen, seconds: float) -> list[str]:
    """Processes of the group of a process that has ended, if they do not end within so many seconds, too."""
    until = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


@dataclass(frozen=True)
class Watched:
    """What a run took: its files at most, without those of the store, and the memory of its processes.

    `early` and `late` hold the largest number of resident bytes of every process (main and workers) while channels were
    imaged: in the first tenth of the time watched, and in the rest. The key 0 stands for all processes together, until the
    end of the run.
    """

    early: dict[int, float]
    late: dict[int, float]
    files: int
    summary: dict

    @property
    def growth(self) -> float:
        """Largest growth of a process, as a fraction of what it held."""
        return max(self.late[pid] / self.early[pid] - 1 for pid in self.early)


def watch(ms: Path, folder: Path, place: str, warm_up: int, **changes: object) -> Watched:
    """Run to the end, and look at memory and files several times a second once `warm_up` channels are safe.

    Both workers of a local cluster must have imaged some channels before that: on a busy machine one starts long after the
    other.
    """
    run, workers = start(ms, folder, place, temporary=str(folder), **changes), 2 if place == "local" else 1
    process, samples, files = psutil.Process(run.pid), [], 0
    while run.poll() is None:
        time.sleep(0.05)
        with contextlib.suppress(psutil.Error, OSError):
            held = {p.pid: p.memory_info().rss for p in (process, *worker_processes(run.pid))}
            if (safe := safe_channels(folder)) >= warm_up and (samples or len(workers_of(folder)) >= workers):
                samples.append((safe, held))
        found = [name for at, _, names in os.walk(folder) for name in names if "cube.scratch" not in at]
        files = max(files, len(found))
    finish(run, folder)
    last, most = max(safe for safe, _ in samples), max(len(held) for _, held in samples)
    imaging = [held for safe, held in samples if safe < last and len(held) == most]
    if len(imaging) < 10:
        raise Torture(f"only {len(imaging)} looks at the memory: more channels are needed")
    early, late = {}, {}
    for name, sizes in [
        *((pid, [held[pid] for held in imaging]) for pid in imaging[0]),
        (0, [sum(held.values()) for _, held in samples]),
    ]:
        tenth = -(-len(sizes) // 10)
        early[name], late[name] = max(sizes[:tenth]), max(sizes[tenth:])
    return Watched(early, late, files, json.loads((folder / "run" / "cube.summary.json").read_text()))


COMMAND = """
import faulthandler, signal, sys
from gpucube.cli import main
from gpucube.execution.tuning import Tuning

if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    sys.exit(main(tuning=Tuning(in_process_seconds={in_process_seconds})))
"""
"""``gpucube image``, which on SIGUSR1 says where every thread is."""


def start(
    ms: Path, folder: Path, place: str, address: str = "", temporary: str = "", **changes: object
) -> subprocess.Popen:
    """Start ``gpucube image`` in `folder` with the relative imagename ``run/cube``.

    Headers hold the imagename, so runs whose bytes are compared must have the same.
    """
    folder.mkdir(exist_ok=True)
    options = OPTIONS | changes | ({"scheduler": address} if place == "cluster" else {})
    arguments = ["image", str(ms), "--imagename", "run/cube", "--quiet"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        arguments += [option] if value is True else [option, str(value)]
    code = COMMAND.format(in_process_seconds=0 if place == "local" else Tuning().in_process_seconds)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that runs tests in the background makes them ignore Ctrl-C, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | ({"TMPDIR": temporary, "DASK_TEMPORARY_DIRECTORY": temporary} if temporary else {}),
    )


def payload(folder: Path) -> dict[str, bytes]:
    """The bytes of every product, without the summary."""
    return {p.name: p.read_bytes() for p in sorted((folder / "run").glob("*.fits"))}


def ended(run: subprocess.Popen) -> str:
    """Wait for the end of a run; returns what it wrote to standard error. A run that hangs fails, and says where."""
    try:
        return run.communicate(timeout=TIMEOUT)[1]
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGUSR1)
        time.sleep(1)
        kill_group(run)
        raise Torture(f"a run hangs: {run.communicate()[1]}") from None


def finish(run: subprocess.Popen, folder: Path) -> dict[str, bytes]:
    """Wait for the end of a run, which must be a success; returns its products."""
    errors = ended(run)
    if run.returncode != 0:
        raise Torture(f"the run in {folder} ended with status {run.returncode}: {errors}")
    found = payload(folder)
    left = sorted(path.name for path in (folder / "run").iterdir())
    kept = json.loads((folder / "run" / "cube.summary.json").read_text())["visibilities"]
    if left != sorted([*found, "cube.summary.json", *(["cube.visibilities"] if kept else [])]):
        raise Torture(f"the run in {folder} left {left}")
    return found


def disturb(
    ms: Path,
    folder: Path,
    way: tuple[str, str],
    moment: float,
    cluster: Cluster,
    rng: random.Random,
    **changes: object,
) -> tuple[subprocess.Popen, str]:
    """Start a run, kill one of its processes after `moment` seconds, and see how the run ends.

    It ``"went on"``, ``"ended"`` or was ``"killed"``. The word is empty if it had ended before.
    """
    place, victim = way
    if place == "cluster":
        cluster.start()
    run = start(ms, folder, place, cluster.address, **changes)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(moment)
    if run.poll() is not None:
        finish(run, folder)
        return run, ""
    if victim == "main":
        run.kill()
        run.wait()
        # its workers may still be at work when the run is resumed
        return run, "killed"
    if victim == "scheduler":
        cluster.scheduler.kill()
        errors = ended(run)
        if run.returncode == 0:
            return run, ""
        told = [line for line in errors.splitlines() if line]
        if run.returncode != 2 or len(told) != 1 or not told[0].startswith("gpucube: error: "):
            raise Torture(f"without its scheduler the run ended with status {run.returncode}: {errors}")
        return run, "ended"
    workers: list[psutil.Process] = []
    while not workers and run.poll() is None:
        workers = cluster.workers() if place == "cluster" else worker_processes(run.pid)
    if not workers:
        finish(run, folder)
        return run, ""
    with contextlib.suppress(psutil.NoSuchProcess):
        rng.choice(workers).kill()
    finish(run, folder)
    return run, "went on"


def torture(ms: Path, folder: Path, ways: Sequence[tuple[str, str]], seed: int, **changes: object) -> list[str]:
    """Kill once in each of the ways, resume, and compare the products. Return one line for each kill."""
    rng = random.Random(seed)
    cluster = Cluster(folder)
    lines = []
    try:
        usual, expected = {}, {}
        for place in dict.fromkeys(place for place, _ in ways):
            if place == "cluster":
                cluster.start()
            begun = time.monotonic()
            expected = finish(start(ms, folder / place, place, cluster.address, **changes), folder / place)
            usual[place] = time.monotonic() - begun
            if expected != payload(folder / next(iter(usual))):
                raise Torture(f"the undisturbed run differs on {place}")
        kills = 0
        while kills < len(ways):
            way = ways[kills]
            work = folder / f"run{kills}"
            moment = rng.uniform(0.05, 1.0) * usual[way[0]]
            run, how = disturb(ms, work, way, moment, cluster, rng, **changes)
            if not how:  # the run was quicker than usual
                remove(work)
                continue
            kills += 1
            safe = safe_channels(work)
            place = rng.choice(list(usual))
            if place == "cluster":
                cluster.start()
            again = start(ms, work, place, cluster.address, resume=True, chunksize=rng.choice([1, 5, -1]), **changes)
            if finish(again, work) != expected:
                raise Torture(
                    f"{way} killed after {moment:.2f} s and resumed on {place}: the products differ (seed {seed})"
                )
            if left := [*left_behind(run, 10), *left_behind(again, 10)]:
                raise Torture(f"{way} killed after {moment:.2f} s: processes were left behind: {left}")
            remove(work)
            lines.append(
                f"{kills:3d} {way[0]:8s} {way[1]:10s} after {moment:5.2f} s: {how}, {safe} channels safe; same bytes"
            )
            print(lines[-1], flush=True)
    finally:
        cluster.stop()
    return lines


def safe_channels(folder: Path) -> int:
    """Number of channels in the journal of an unfinished run."""
    try:
        return max(0, (folder / "run" / "cube.journal").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def workers_of(folder: Path) -> set[bytes]:
    """Names of the workers that have imaged channels of an unfinished run."""
    try:
        return set(re.findall(rb'"worker": "([^"]*)"', (folder / "run" / "cube.journal").read_bytes()))
    except FileNotFoundError:
        return set()


def remove(folder: Path) -> None:
    """Remove a run's folder."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def make_ms(folder: Path, **changes: object) -> Path:
    """A MeasurementSet of 48 channels, whose imaging takes seconds."""
    from gpucube.schema.validation import validated
    from gpucube.simulate import SimulationParameters, simulate_ms

    folder.mkdir(exist_ok=True)
    parameters = {
        "out": folder / "torture.ms", "array": "vla-d", "antennas": 12, "ntime": 40, "nchan": 48,
        "noise": 0.05, "peak": 1.0, "imsize": 64, "cell": 20.0,
    }  # fmt: skip
    return Path(simulate_ms(validated(SimulationParameters, parameters | changes)).ms)


def grow(folder: Path, channels: int) -> None:
    """Watch memory and files while two workers image many channels.

    No process may grow by 5 % or more after the first 500 channels, and no more than 20 files may lie beside the store.
    """
    ms = make_ms(folder / "many", nchan=channels, antennas=8, ntime=10)
    seen = watch(ms, folder / "grow", "local", warm_up=500, cycleniter=-1, gain=0.1, majorcycle="auto")
    held = ", ".join(f"{seen.early[pid] / 1e6:.1f} to {seen.late[pid] / 1e6:.1f} MB" for pid in seen.early)
    print(f"{channels} channels: {100 * seen.growth:.1f} % growth at most ({held}), {seen.files} files", flush=True)
    if seen.growth >= 0.05 or seen.files > 20:
        raise Torture("memory or files grew with the channels")


ERRNOS = (
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EBUSY),
    *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ELOOP, errno.ENODEV, errno.ENXIO),
)
"""What local, network and FUSE file systems answer."""

REMOVALS = ("unlink", "rmtree")
"""Where these are refused for good, something is left behind for good."""


def refuse(ms: Path, folder: Path, count: int, seed: int) -> list[str]:
    """Refuse calls of the file system to runs in threads, and see how they end. Return one line for each refusal."""
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    settings = {"workers": 1, "chunksize": 1, "restoringbeam": "common", "products": ("image", "psf"), "device": "cpu"}
    tuning = Tuning(seconds_between_syncs=0.0)
    calls: list[str] = []
    with seen_by(lambda name, arguments: calls.append(name)):
        expected = content(image(ms, folder / "usual" / "cube", tuning=tuning, **settings))
    lines = []
    for number in range(count):
        moment, code = rng.randrange(len(calls)), rng.choice(ERRNOS)
        lasting = rng.random() < 0.3 and calls[moment] not in REMOVALS
        out = folder / f"run{number}"
        out.mkdir()
        seen, refused = itertools.count(), []

        def hook(
            name: str,
            arguments: tuple[Any, ...],
            *,
            seen=seen,
            refused=refused,
            moment=moment,
            code=code,
            lasting=lasting,
        ) -> None:
            if next(seen) == moment or (lasting and name in refused):
                refused.append(name)
                raise OSError(code, os.strerror(code))

        def fail(what: str, *, moment=moment, code=code, refused=refused, lasting=lasting) -> Torture:
            how = f"{refused[:1]} at call {moment}, {errno.errorcode[code]}{' from then on' if lasting else ''}"
            return Torture(f"{how}: {what} (seed {seed})")

        resume = False
        try:
            with warnings.catch_warnings(), seen_by(hook):
                warnings.simplefilter("ignore")
                result = image(ms, out / "cube", tuning=tuning, **settings)
            told = "went on"
        except GpucubeError as error:
            told = str(error)
            resume = "channels are safe on disk" in told
            left = sorted(path.name for path in out.iterdir())
            if "\n" in told or (left and not resume):
                raise fail(f"it said {told!r} and left {left}") from None
            result = image(ms, out / "cube", tuning=tuning, resume=resume, **settings)
        except Exception as error:
            raise fail(f"{type(error).__name__}: {error}") from error
        if content(result) != expected:
            raise fail("the products differ")
        left = {path.name for path in out.iterdir()} - {Path(path).name for path in result.products.values()}
        if left - ({"cube.journal"} if told == "went on" and refused[:1] == ["unlink"] else set()):
            raise fail(f"{sorted(left)} was left")
        remove(out)
        lines.append(f"{number + 1:3d} {calls[moment]:16s} {errno.errorcode[code]:10s} {told[:100]}")
        print(lines[-1], flush=True)
    return lines


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--refusals", type=int, default=200)
    parser.add_argument("--channels", type=int, default=0, help="also watch the memory of a run with so many channels")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    rng = random.Random(given.seed)
    ways = [WAYS[k % len(WAYS)] for k in range(given.kills)]
    rng.shuffle(ways)
    with tempfile.TemporaryDirectory(prefix="gpucube-torture-") as folder:
        try:
            if given.channels:
                grow(Path(folder), given.channels)
            begun = time.monotonic()
            if ways:
                torture(make_ms(Path(folder)), Path(folder), ways, given.seed)
            print(f"{len(ways)} kills in {(time.monotonic() - begun) / 60:.1f} minutes, seed {given.seed}: same bytes")
            if given.refusals:
                small = make_ms(Path(folder) / "small", nchan=6, antennas=8, ntime=10)
                refuse(small, Path(folder) / "refused", given.refusals, given.seed)
                print(
                    f"{given.refusals} refusals, seed {given.seed}: same bytes, or one line and the same bytes afterwards"
                )
        except Torture as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
