"""The report tells what the records say, of a run finished or not, and nothing from a file gets into the page as anything but
text."""

from __future__ import annotations

import base64
import fcntl
import json
import re
import shutil
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from events import WhenSafe, interrupt
from jobs import altered, image

import gpucube
from gpucube.cli import main
from gpucube.execution.tuning import Tuning
from gpucube.output.journal import Journal, is_locked
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.report.page import LONGEST_TEXT, MOST_ROWS, Run, findings, page, read_run, write_report

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
    for record in summary["channels"]:
        row = rows[record["channel"]]
        assert row[1] == f"{record['frequency_hz'] / 1e9:.6f}"
        assert row[2] == record["stop_reason"]
        assert [int(row[3]), int(row[4]), int(row[10])] == [
            record[name] for name in ("iterations", "major_cycles", "visibilities")
        ]
        if record["noise"] is None:
            assert row[5:8] == ["", "", ""]
        else:
            shown = [1e-3 * float(value) for value in row[5:8]]
            assert shown == pytest.approx([record[n] for n in ("peak_residual", "limit", "noise")], abs=6e-7)
    assert "Finished: 12 channels imaged" in found.text
    assert "no data, blank (1 channel): 2" in found.text
    assert ["MeasurementSets", summary["parameters"]["vis"][0]] in found.cells
    assert ["niter", "1000"] in found.cells
    assert "1.00 times what was selected" in found.text


def test_the_page_stands_alone(finished: Path) -> None:
    """Nothing is fetched, nothing is run: all pictures are inside."""
    found = report(finished)
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(found.tags)
    assert not [name for name in found.attributes if name.startswith("on") or name in ("href", "style", "srcset")]
    assert len(found.pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in found.pictures)
    assert "url(" not in Path(write_report(str(finished))).read_text()


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
    document["channels"][3] |= {"message": HOSTILE, "stop_code": 11, "stop_reason": HOSTILE}
    (tmp_path / "cube.summary.json").write_text(json.dumps(document))
    found = report(tmp_path / "cube")
    assert "script" not in found.tags and "onerror" not in found.attributes
    assert "A" * LONGEST_TEXT not in found.text and "\x1b" not in found.text
    assert "failed, <script>" in found.text


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_without_the_cube_the_rest_is_told(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished.with_name("cube.summary.json"), tmp_path)
    found = report(tmp_path / "cube")
    assert len(found.pictures) == 1 and len(found.channels()) == 12
    whole = finished.with_name("cube.image.fits").read_bytes()
    for text in (b"SIMPLE  = no", whole[: len(whole) // 2], whole.replace(b"CDELT1", b"XDELT1")):
        (tmp_path / "cube.image.fits").write_bytes(text)
        assert len(report(tmp_path / "cube").pictures) == 1


@pytest.mark.parametrize("beam", ["", "common"])
def test_an_unfinished_run_is_told_as_far_as_it_is_safe(beam: str, tiny_ms: Any, tmp_path: Path) -> None:
    going_on: list[str] = []

    def report_and_stop() -> None:
        going_on.append(page(read_run(str(tmp_path / "cube"))))
        interrupt()

    at_once, observer = Tuning(seconds_between_syncs=0.0), WhenSafe(5, report_and_stop)
    with pytest.raises(KeyboardInterrupt):
        image(tiny_ms.ms, tmp_path / "cube", workers=1, restoringbeam=beam, tuning=at_once, observer=observer)
    safe = len(read_run(str(tmp_path / "cube")).records)
    assert 5 <= safe < 12
    found = report(tmp_path / "cube")
    assert f"Not finished: {safe} of 12 channels are safe on disk" in found.text
    assert len(found.channels()) == safe
    # with one beam for all there is no image before the end
    assert len(found.pictures) == (1 if beam == "common" else 2)
    assert "Going on now: " in Page(going_on[0]).text
    image(tiny_ms.ms, tmp_path / "cube", workers=1, restoringbeam=beam, resume=True)
    assert "Finished: 12 channels imaged" in report(tmp_path / "cube").text


def test_a_run_that_still_reads_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imagename = str(tmp_path / "cube")
    with Journal(imagename, {}, resume=False):
        assert main(["report", imagename]) == 2
        assert "is still reading its data" in capsys.readouterr().err


def test_looking_at_a_run_does_not_disturb_it(tmp_path: Path) -> None:
    """Whoever asks whether a run goes on may hold the lock for a moment while one begins."""
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


def test_a_report_of_an_older_cube_goes_with_it(tiny_ms: Any, tmp_path: Path) -> None:
    image(tiny_ms.ms, tmp_path / "cube", niter=0)
    path = Path(write_report(str(tmp_path / "cube")))
    image(tiny_ms.ms, tmp_path / "cube", niter=0, overwrite=True)
    assert not path.exists()


@pytest.mark.parametrize(
    "changes",
    [{"nchan": 1, "start": 2}, {"nchan": 1, "start": 4}, {"stokes": "IV"}, {"products": ("residual",)}],
    ids=["no data at all", "one channel", "two Stokes", "no image"],
)
def test_unusual_runs_have_reports(changes: dict[str, Any], tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **changes)
    found = report(tmp_path / "cube")
    assert len(found.channels()) == len(result.channels)
    blank = all(r.noise is None for r in result.channels)
    assert len(found.pictures) == (1 if blank or "image" not in result.products else 2)


def record(channel: int, code: StopCode = StopCode.NSIGMA, **changes: Any) -> ChannelRecord:
    beam = {"bmaj_arcsec": 40.0, "bmin_arcsec": 30.0, "bpa_deg": 0.0}
    settings = {"noise": 1e-3, "limit": 3e-3, "peak_residual": 2.9e-3, "beam": beam, "flagged_fraction": 0.1} | changes
    return ChannelRecord(channel, 1.42e9, int(code), code.reason, **settings)


def run_of(records: list[ChannelRecord]) -> Run:
    return Run("cube", len(records), records, {}, None)


def test_what_must_be_looked_at_is_named_the_worst_first() -> None:
    records = [record(c) for c in range(20)]
    records[1] = record(1, StopCode.FAILED, message="MemoryError: out", noise=None, beam=None)
    records[2] = record(2, StopCode.PEAK_GREW, retried=True)
    records[3] = record(3, StopCode.NSIGMA, retried=True)
    records[4] = record(4, StopCode.ITERATION_LIMIT)
    records[5] = record(5, StopCode.MAJOR_LIMIT)
    records[6] = record(6, StopCode.NO_CHANGE)
    records[7] = record(7, noise=2.5e-3)
    records[8] = record(8, noise=2.5e-3)
    records[9] = record(9, beam={"bmaj_arcsec": 90.0, "bmin_arcsec": 30.0, "bpa_deg": 0.0})
    records[10] = record(10, flagged_fraction=0.7)
    records[11] = record(11, StopCode.NO_DATA, noise=None, beam=None, flagged_fraction=1.0)
    found = findings(run_of(records))
    ends = ["1", "2", "2~3", "4", "5", "6", "7~8", "9", "10", "11"]
    assert [re.search(r" \(\d+ channels?\): ([\d~, ]+)$", line)[1] for line in found] == ends
    assert found[0].startswith("failed, MemoryError (1 channel)")


def test_of_several_stokes_planes_none_is_forgotten() -> None:
    good, bad = record(0).as_dict(), record(0, StopCode.PEAK_GREW).as_dict()
    merged = record(0, planes={"I": good, "V": bad})
    assert merged.stop_code == StopCode.NSIGMA
    assert findings(run_of([merged]))[0].startswith("diverged twice")


def test_many_failures_are_told_in_few_lines() -> None:
    records = [record(c, StopCode.FAILED, message=f"KilledWorker: task {c} " + "x" * 400) for c in range(0, 4000, 2)]
    (line,) = findings(Run("cube", 4000, records, {}, None))
    assert line.startswith("failed, KilledWorker (2000 channels): 0, 2, 4,")


def test_nothing_is_invented_where_all_is_well() -> None:
    assert findings(run_of([record(c) for c in range(5)])) == []
    assert findings(run_of([])) == []


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
        lambda document: document | {"channels": [document["channels"][0] | {"noise": "x"}]},
        lambda document: [document],
        lambda document: None,
    ],
)
def test_a_damaged_summary_is_told_in_one_line(
    damage: Callable[[dict[str, Any]], Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(finished.with_name("cube.summary.json").read_text())
    (tmp_path / "cube.summary.json").write_text(json.dumps(damage(document)))
    assert main(["report", str(tmp_path / "cube")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cube.summary.json is damaged" in error
    assert not (tmp_path / "cube.report.html").exists()


def test_a_damaged_journal_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = {"path": "x", "data_offset": 1, "nstokes": 1, "nchan": "many", "ny": 1, "nx": 1}
    header = json.dumps({"format": 2, "fingerprint": {}, "cubes": {"image": cube}}) + "\n"
    for text in (header, "[1]\n", '{"format": 2}\n', '{"format": 99}\n', "null\n", '{"format": 2, "cubes": {}}\n'):
        (tmp_path / "cube.journal").write_text(text)
        assert main(["report", str(tmp_path / "cube")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "cube.journal" in error


def test_a_run_that_is_not_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "cube")]) == 2
    assert re.fullmatch(r"gpucube: error: no run of that name: .*cube\.summary\.json.*\n", capsys.readouterr().err)


def test_a_page_that_cannot_be_written_is_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(gpucube.GpucubeError, match=r"cannot write .*no/page\.html: No such file"):
        write_report(str(finished), str(tmp_path / "no" / "page.html"))
