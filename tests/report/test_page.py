"""The page says what the records of a run say, and whatever a file contains appears in it as text only."""

from __future__ import annotations

import base64
import fcntl
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from casacore import tables
from jobs import SETTINGS, altered, image
from made_up import record, run_of

import gpucube
import gpucube.run
from gpucube.cli import main
from gpucube.output.journal import Journal, is_locked
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.report.page import LONGEST_TEXT, MOST_ROWS, page, write_report
from gpucube.report.state import read_run
from gpucube.schema.parameters import make_parameters

ALONE = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements and text of a page; fails on elements that are not closed where they should be."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in ALONE:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data

    @property
    def pictures(self) -> list[bytes]:
        return [base64.b64decode(a.removeprefix("data:image/png;base64,")) for a in self.attributes.get("src", [])]

    def channels(self) -> dict[int, list[str]]:
        """Rows of the table of channels."""
        head = next(k for k, row in enumerate(self.cells) if row[:2] == ["channel", "GHz"])
        rows = {}
        for row in self.cells[head + 1 :]:
            if len(row) != len(self.cells[head]):
                break
            rows[int(row[0])] = row
        return rows


def report(imagename: Path) -> Page:
    return Page(Path(write_report(str(imagename))).read_text())


@pytest.fixture(scope="module")
def finished(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    imagename = tmp_path_factory.mktemp("report") / "cube"
    image(tiny_ms.ms, imagename)
    return imagename


def test_the_command_writes_one_page_and_says_where(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(finished)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == finished.with_name("cube.report.html") and path.is_file()
    other = finished.with_name("elsewhere.html")
    assert main(["report", str(finished), "--html", str(other)]) == 0
    assert Page(other.read_text()).channels() == Page(path.read_text()).channels()
    mine = finished.with_name("mine.fits")
    mine.write_bytes(b"SIMPLE")
    assert main(["report", str(finished), "--html", str(mine)]) == 2
    assert "mine.fits is no report and would be lost" in capsys.readouterr().err
    assert mine.read_bytes() == b"SIMPLE"


def test_the_page_says_of_every_channel_what_its_record_says(finished: Path) -> None:
    summary = json.loads(finished.with_name("cube.summary.json").read_text())
    found = report(finished)
    rows = found.channels()
    assert list(rows) == list(range(12))
    for written in summary["channels"]:
        row = rows[written["channel"]]
        assert row[1] == f"{written['frequency_hz'] / 1e9:.6f}"
        assert row[3] == written["stop_reason"]
        assert [int(row[4]), int(row[5]), int(row[11])] == [
            written[name] for name in ("iterations", "major_cycles", "visibilities")
        ]
        if written["noise"] is None:
            assert row[6:9] == ["", "", ""]
        else:
            shown = [1e-3 * float(value) for value in row[6:9]]
            assert shown == pytest.approx([written[n] for n in ("peak_residual", "limit", "noise")], abs=6e-7)
    assert "Finished: 12 channels imaged" in found.text
    assert "no data, blank (1 channel): 2" in found.text
    assert ["MeasurementSets", summary["parameters"]["vis"][0]] in found.cells
    assert ["niter", "1000"] in found.cells
    assert "1.00 times what was selected" in found.text


def test_the_page_stands_alone(finished: Path) -> None:
    """It fetches nothing and runs nothing, and all pictures are inside."""
    found = report(finished)
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(found.tags)
    assert not [name for name in found.attributes if name.startswith("on") or name in ("href", "style", "srcset")]
    assert len(found.pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in found.pictures)
    assert "url(" not in Path(write_report(str(finished))).read_text()


def test_the_page_suits_dark_rooms_small_screens_and_readers_without_pictures(finished: Path) -> None:
    text = Path(write_report(str(finished))).read_text()
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width' in text
    alternatives = Page(text).attributes["alt"]
    assert len(alternatives) == 2 and all(len(words) > 30 for words in alternatives)


def test_the_reason_of_a_failure_stands_beside_its_channel() -> None:
    run = run_of([record(0), record(1, StopCode.FAILED, message="MemoryError: 12 GB")])
    assert re.search(r'<tr class="bad">\s*<td>1</td>.*<td>failed<br><small>MemoryError: 12 GB</small></td>', page(run))


def test_faint_channels_show_three_digits_of_their_noise() -> None:
    rows = Page(page(run_of([record(0, noise=1.234e-9, limit=3.7e-9, peak_residual=3.6e-9)]))).channels()
    assert rows[0][6:9] == ["0.00000360", "0.00000370", "0.00000123"]


def radio_velocities(imagename: Path) -> np.ndarray:
    """Radio velocity of every channel by astropy, km/s."""
    channels = json.loads(imagename.with_name("cube.summary.json").read_text())["channels"]
    frequency = [channel["frequency_hz"] for channel in channels] * units.Hz
    velocity: np.ndarray = frequency.to_value("km/s", units.doppler_radio(1420.405752 * units.MHz))
    return velocity


def test_the_page_says_velocities_with_their_frame_and_convention(finished: Path) -> None:
    velocity = radio_velocities(finished)
    found = report(finished)
    words = f"{velocity[0]:.2f} to {velocity[-1]:.2f} km/s (LSRK, radio, rest frequency 1420.405752MHz)"
    assert ["velocity", words] in found.cells
    assert any(
        row[0] == "frequency" and "GHz (LSRK, channels 0 to 11)" in row[1] for row in found.cells if len(row) == 2
    )
    assert [float(row[2]) for row in found.channels().values()] == pytest.approx(velocity, abs=0.006)


def test_the_page_of_an_older_run_takes_frame_and_rest_frequency_from_the_cube(finished: Path, tmp_path: Path) -> None:
    document = json.loads(finished.with_name("cube.summary.json").read_text())
    del document["spectral_axis"]
    (tmp_path / "cube.summary.json").write_text(json.dumps(document))
    shutil.copy(finished.with_name("cube.image.fits"), tmp_path)
    ours, theirs = (Page(Path(write_report(name)).read_text()) for name in (tmp_path / "cube", finished))
    assert [row for row in ours.cells if row[0] == "velocity"] == [row for row in theirs.cells if row[0] == "velocity"]
    assert ours.channels() == theirs.channels()


def test_the_page_without_a_rest_frequency_has_no_velocities() -> None:
    found = Page(page(run_of([record(0)])))
    assert found.channels()[0][2] == "" and not [row for row in found.cells if row[0] == "velocity"]


HOSTILE = "<script>alert('x')</script>\"><img src=http://evil onerror=x>&amp;\x1b[31m" + "A" * 100_000


def test_words_of_a_measurement_set_are_text_and_bounded(tiny_ms: Any, tmp_path: Path) -> None:
    copy = altered(tiny_ms.ms, tmp_path, lambda t: None)
    for table, column in (("FIELD", "NAME"), ("OBSERVATION", "TELESCOPE_NAME"), ("OBSERVATION", "OBSERVER")):
        with tables.table(str(copy / table), readonly=False, ack=False) as t:
            t.putcell(column, 0, HOSTILE)
    image(copy, tmp_path / "cube", niter=0)
    found = report(tmp_path / "cube")
    assert "script" not in found.tags and "onerror" not in found.attributes
    assert "<script>alert" in found.text, "shown as text"
    assert "A" * LONGEST_TEXT not in found.text and "\x1b" not in found.text
    assert len(found.pictures) == 2


def test_words_of_a_summary_are_text_and_bounded(finished: Path, tmp_path: Path) -> None:
    document = json.loads(finished.with_name("cube.summary.json").read_text())
    document["warnings"] = [HOSTILE]
    document["versions"] = {HOSTILE: HOSTILE}
    document["plan"][HOSTILE] = HOSTILE
    document["parameters"] |= {"vis": [HOSTILE], "mask": HOSTILE, HOSTILE: [HOSTILE], "imsize": HOSTILE}
    document["channels"][3]["planes"]["I"] |= {"message": HOSTILE, "stop_code": 11, "stop_reason": HOSTILE}
    (tmp_path / "cube.summary.json").write_text(json.dumps(document))
    found = report(tmp_path / "cube")
    assert "script" not in found.tags and "onerror" not in found.attributes
    assert "A" * LONGEST_TEXT not in found.text and "\x1b" not in found.text
    assert "failed, <script>" in found.text


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_without_a_readable_cube_the_page_has_the_rest(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished.with_name("cube.summary.json"), tmp_path)
    found = report(tmp_path / "cube")
    assert len(found.pictures) == 1 and len(found.channels()) == 12
    whole = finished.with_name("cube.image.fits").read_bytes()
    for text in (b"SIMPLE  = no", whole[: len(whole) // 2], whole.replace(b"CDELT1", b"XDELT1")):
        (tmp_path / "cube.image.fits").write_bytes(text)
        found = report(tmp_path / "cube")
        assert len(found.pictures) == 1
        assert "cube.image.fits cannot be read as gpucube writes it" in found.text


class InterruptedAfterFive(gpucube.run.Observer):
    """Presses Ctrl-C when five channels are safe, after a look at the page of the running run."""

    def __init__(self, imagename: str):
        self.imagename = imagename
        self.page = ""

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        run = read_run(self.imagename)
        if len(run.records) >= 5:
            self.page = page(run)
            raise KeyboardInterrupt


@pytest.mark.parametrize("beam", ["", "common"])
def test_the_page_of_an_unfinished_run_has_the_channels_that_are_safe(beam: str, tiny_ms: Any, tmp_path: Path) -> None:
    imagename = str(tmp_path / "cube")
    changes = {"workers": 1, "chunksize": 1, "restoringbeam": beam}
    parameters = make_parameters(vis=tiny_ms.ms, imagename=imagename, **(SETTINGS | changes))
    observer = InterruptedAfterFive(imagename)
    with pytest.raises(KeyboardInterrupt):
        gpucube.run.image(parameters, observer=observer)
    safe = len(read_run(imagename).records)
    assert 5 <= safe < 12
    found = report(tmp_path / "cube")
    assert f"Not finished: {safe} of 12 channels are safe on disk" in found.text
    assert len(found.channels()) == safe
    # with one beam for all there is no image before the end
    assert len(found.pictures) == (1 if beam == "common" else 2)
    assert "Still running: " in Page(observer.page).text
    image(tiny_ms.ms, tmp_path / "cube", resume=True, **changes)
    assert "Finished: 12 channels imaged" in report(tmp_path / "cube").text


def test_a_run_that_still_reads_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imagename = str(tmp_path / "cube")
    with Journal(imagename, {}, resume=False):
        assert main(["report", imagename]) == 2
        assert "is still reading its data" in capsys.readouterr().err


def test_looking_at_a_run_does_not_disturb_it(tmp_path: Path) -> None:
    """A reader that asks whether a run goes on may hold its lock for a moment while one begins."""
    path = tmp_path / "cube.journal"
    path.touch()
    with open(path) as one, open(path) as other:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_locked(str(tmp_path / "cube"))
        threading.Timer(0.05, lambda: [fcntl.flock(f, fcntl.LOCK_UN) for f in (one, other)]).start()
        with Journal(str(tmp_path / "cube"), {}, resume=False):
            path.chmod(0o444)
            assert is_locked(str(tmp_path / "cube"))


def test_a_new_run_removes_the_page_of_the_old_one(tiny_ms: Any, tmp_path: Path) -> None:
    image(tiny_ms.ms, tmp_path / "cube", niter=0)
    path = Path(write_report(str(tmp_path / "cube")))
    image(tiny_ms.ms, tmp_path / "cube", niter=0, overwrite=True)
    assert not path.exists()


@pytest.mark.parametrize(
    "changes",
    [{"nchan": 1, "start": 4}, {"stokes": "IV"}, {"products": ("residual",)}],
    ids=["one channel", "two Stokes", "no image"],
)
def test_unusual_runs_have_reports(changes: dict[str, Any], tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **changes)
    found = report(tmp_path / "cube")
    assert len(found.channels()) == len(result.channels)
    assert len(found.pictures) == (2 if "image" in result.products else 1)


def test_a_page_about_very_many_channels_is_bounded() -> None:
    rng = np.random.default_rng(1)
    records = [record(c, seconds={"minor": rng.random()}) for c in range(20_000)]
    records[17] = record(17, StopCode.ITERATION_LIMIT)
    text = page(run_of(records))
    assert len(text) < 2_000_000
    assert list(Page(text).channels()) == [17]
    records = [record(c, StopCode.ITERATION_LIMIT) for c in range(20_000)]
    assert len(Page(page(run_of(records))).channels()) == MOST_ROWS


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: {k: v for k, v in document.items() if k != name}


@pytest.mark.parametrize(
    "damage",
    [
        *(without(name) for name in ("parameters", "channels", "versions", "wall_seconds", "stage_seconds", "plan")),
        lambda document: document | {"wall_seconds": "long"},
        lambda document: document | {"channels": document["channels"][::-1]},
        lambda document: document | {"channels": [{"channel": 0}]},
        lambda document: document | {"channels": [document["channels"][0] | {"planes": {"I": {"noise": "x"}}}]},
        lambda document: document | {"channels": [document["channels"][0] | {"planes": {}}]},
        lambda document: [document],
        lambda document: None,
    ],
)
def test_a_damaged_summary_is_reported_in_one_line(
    damage: Callable[[dict[str, Any]], Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(finished.with_name("cube.summary.json").read_text())
    (tmp_path / "cube.summary.json").write_text(json.dumps(damage(document)))
    assert main(["report", str(tmp_path / "cube")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cube.summary.json is not what gpucube writes" in error
    assert not (tmp_path / "cube.report.html").exists()


def test_a_damaged_journal_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = {"path": "x", "data_offset": 1, "nstokes": 1, "nchan": "many", "ny": 1, "nx": 1}
    header = json.dumps({"format": 2, "fingerprint": {}, "cubes": {"image": cube}}) + "\n"
    for text in (header, "[1]\n", '{"format": 2}\n', '{"format": 99}\n', "null\n", '{"format": 2, "cubes": {}}\n'):
        (tmp_path / "cube.journal").write_text(text)
        assert main(["report", str(tmp_path / "cube")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "cube.journal" in error


def test_a_run_that_is_not_there_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "cube")]) == 2
    assert re.fullmatch(r"gpucube: error: no run is called .*cube\.summary\.json.*\n", capsys.readouterr().err)


def test_a_page_that_cannot_be_written_is_reported(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(gpucube.GpucubeError, match=r"cannot write .*no/page\.html: No such file"):
        write_report(str(finished), str(tmp_path / "no" / "page.html"))
