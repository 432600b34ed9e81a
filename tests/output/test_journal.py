"""The journal keeps what was added, however the run ends, and belongs to one run at a time."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from records import channel_record

from gpucube.errors import GpucubeError
from gpucube.output.fits_cube import CubeFile
from gpucube.output.journal import Journal, read_journal
from gpucube.output.records import StopCode

CUBES = {"image": CubeFile(path="cube.image.fits", data_offset=2880, nstokes=1, nchan=9, ny=8, nx=8)}
IDENTITY = {"niter": 100}


@pytest.fixture
def imagename(tmp_path: Path) -> str:
    return str(tmp_path / "cube")


def begun(imagename: str, *channels: int) -> Journal:
    """A journal with some channels in it, still open."""
    journal = Journal(imagename, IDENTITY)
    journal.begin(CUBES)
    journal.add([channel_record(channel, noise=0.1 * channel) for channel in channels])
    return journal


def test_what_was_added_is_there_in_order_of_channel_and_only_once(imagename: str) -> None:
    with begun(imagename, 7, 3) as journal:
        journal.add([channel_record(3), channel_record(1)])
        assert journal.safe == {1, 3, 7}
        assert journal.records() == [
            channel_record(1),
            channel_record(3, noise=0.1 * 3),
            channel_record(7, noise=0.1 * 7),
        ]


def test_a_resumed_run_takes_over_cubes_and_channels(imagename: str) -> None:
    begun(imagename, 2, 5).close()
    with Journal(imagename, IDENTITY, resume=True) as journal:
        assert (journal.cubes, journal.safe) == (CUBES, {2, 5})
        journal.drop(2)
        journal.add([channel_record(2, stop_code=StopCode.NSIGMA)])
        assert [record.stop_code for record in journal.records()] == [StopCode.NSIGMA, StopCode.NO_DATA]
    with Journal(imagename, IDENTITY) as journal:
        assert (journal.cubes, journal.safe) == ({}, set()), "without resume nothing is taken over"


@pytest.mark.parametrize("tail", [b'{"channel": 8, "frequ', b"garbage\n", b'{"channel": 99}\n', b"\xff\n"])
def test_a_damaged_end_does_not_count_and_is_cut_off(imagename: str, tail: bytes) -> None:
    begun(imagename, 1, 2).close()
    path = Path(f"{imagename}.journal")
    good = path.read_bytes()
    path.write_bytes(good + tail + b'{"channel": 4}\n')
    with Journal(imagename, IDENTITY, resume=True) as journal:
        assert journal.safe == {1, 2}
        assert path.stat().st_size == len(good)
        journal.add([channel_record(3)])
        assert [record.channel for record in journal.records()] == [1, 2, 3]


def test_a_channel_outside_the_cube_ends_what_counts(imagename: str) -> None:
    begun(imagename, 1, 9, 2).close()
    found = read_journal(imagename)
    assert found is not None and [record.channel for record in found.records] == [1]


@pytest.mark.parametrize("header", [b"{}\n", b"[]\n", b'{"run": "x", "format": 3}\n', b"[" * 100_000 + b"\n"])
def test_a_damaged_beginning_is_refused_in_one_line(imagename: str, header: bytes) -> None:
    Path(f"{imagename}.journal").write_bytes(header)
    with pytest.raises(GpucubeError, match=r"cube\.journal is damaged: start again with `overwrite=True`$"):
        read_journal(imagename)


@pytest.mark.parametrize("content", [None, b"", b'{"run": "0123'])
def test_a_run_that_had_not_begun_imaging_has_no_journal_to_speak_of(imagename: str, content: bytes | None) -> None:
    if content is not None:
        Path(f"{imagename}.journal").write_bytes(content)
    assert read_journal(imagename) is None
    with Journal(imagename, IDENTITY, resume=True) as journal:
        assert not journal.cubes


def test_a_changed_fingerprint_is_named(imagename: str) -> None:
    begun(imagename).close()
    with pytest.raises(GpucubeError, match=r"cannot resume .*: niter was 100 and is 200"):
        Journal(imagename, {"niter": 200}, resume=True)
    with Journal(imagename, IDENTITY, resume=True):
        pass  # the refused run has let go of the lock


def test_a_second_run_is_refused_as_long_as_the_first_goes_on(imagename: str) -> None:
    with begun(imagename), pytest.raises(GpucubeError, match=r"another run is making .*cube now"):
        Journal(imagename, IDENTITY)
    Journal(imagename, IDENTITY).close()


@pytest.mark.parametrize("end", ["taken over", "replaced", "finished"])
def test_permission_to_write_ends_with_the_run(imagename: str, end: str) -> None:
    with begun(imagename, 1) as journal:
        may_write = pickle.loads(pickle.dumps(journal.lease.check))
        may_write()
        if end == "finished":
            journal.remove()
    if end != "finished":
        with Journal(imagename, IDENTITY, resume=end == "taken over") as other:
            if end == "replaced":
                other.begin(CUBES)
            other.lease.check()
    with pytest.raises(GpucubeError, match="no longer belongs to this run"):
        may_write()
