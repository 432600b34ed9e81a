"""`python -m gpucube.bench`: workloads, accounting of time, JSON, comparison.

Times themselves are not tested, except that the stages add up to the wall time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from jobs import column, tree

from gpucube.bench.command import chunk_sizes, main
from gpucube.bench.outcome import IMAGE_STAGES, STAGES, Floor, Outcome, Stage, spread
from gpucube.bench.report import binding
from gpucube.bench.scene import make_store, scene_of
from gpucube.bench.stages import Request, run_workload
from gpucube.bench.workloads import WORKLOADS, Workload, find_workload, fitted_to_machine
from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import PlaneKey
from gpucube.devices.cpu.kind import CpuKind
from gpucube.imaging.chunk import image_chunk
from gpucube.simulate import SimulationResult

TINY = {"array": "vla-d", "channels": 6, "integrations": 4, "imsize": 64, "cell": 20, "bright": 0.3, "sources": 3}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.mark.long
def test_a_run_prints_a_table_and_writes_its_figures(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = tmp_path / "result.json"
    before = tree(tmp_path)
    assert run("--workload", tiny, "--workers", 2, "--repeat", 2, "--chunksize", "1,auto", "--json", out) == 0
    assert tree(tmp_path) == sorted([*before, "result.json"]), "scratch folders are removed"
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    assert document["format"] == 1 and "--workload" in document["command"]
    assert document["machine"]["cores"] >= 1 and document["machine"]["cpu"]
    assert document["versions"]["ducc0"]
    assert [r["chunksize"] for r in document["results"]] == [1, 1]
    for result in document["results"]:
        assert result["workload"]["name"] == "tiny" and result["workload"]["rows"] == 4 * 351
        assert len(result["wall_seconds"]) == 2 and min(result["wall_seconds"]) > 0
        assert result["channels_cleaned"] >= 2 and result["iterations"] > 0
        assert list(result["stages"]) == list(STAGES)
        for name, stage in result["stages"].items():
            assert len(stage["seconds"]) == 2 and min(stage["seconds"]) >= 0
            assert stage["share"] == pytest.approx(stage["median"] / np.median(result["wall_seconds"]))
            if name not in ("idle", "fft"):
                assert stage["limit_seconds"] > 0 and stage["floor"] and stage["kind"], name
        assert result["binds"] in printed and result["binds"].startswith("binds: ")
    for name in STAGES:
        assert f"| {name} " in printed


def test_the_stages_add_up_to_the_wall_time() -> None:
    # large enough that what lies between the stages (records, threads) is below the 5 % promised
    workload = Workload(name="sum", array="vla-d", channels=8, integrations=40, imsize=256, cell=10.0, bright=0.25)
    outcome = run_workload(workload, Request(kind=CpuKind(), workers=1, repeat=3))
    assert outcome.accounted == pytest.approx(1.0, abs=0.05)


def test_only_the_stages_asked_for_are_shown_and_run(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    assert run("--workload", tiny, "--workers", 1, "--repeat", 1, "--stages", "read,transpose", "--json", out) == 0
    (result,) = json.loads(out.read_text())["results"]
    assert list(result["stages"]) == ["read", "transpose"]
    assert "imaging" not in capsys.readouterr().err


def test_a_measurement_set_of_the_user_is_read_whole_and_imaged(
    tiny: str, tiny_ms: SimulationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    files = tree(tiny_ms.ms)
    assert run("--ms", tiny_ms.ms, "--workload", tiny, "--workers", 1, "--repeat", 1, "--json", out) == 0
    (result,) = json.loads(out.read_text())["results"]
    kept = int((~column(tiny_ms.ms, "FLAG_ROW")).sum())
    assert result["workload"]["rows"] == kept and result["workload"]["imaged"] == 12
    assert result["stages"]["read"]["bytes"] == 900 * (24 + 12 * 2 * 9 + 2 * 4)
    assert tree(tiny_ms.ms) == files
    assert run("--ms", tmp_path / "no.ms") == 2
    assert "no.ms" in capsys.readouterr().err


@pytest.mark.long
def test_a_result_is_compared_with_an_older_one(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "old.json"
    arguments = ["--workload", tiny, "--workers", 1, "--repeat", 1, "--stages", ",".join(IMAGE_STAGES)]
    assert run(*arguments, "--json", out) == 0
    old = json.loads(out.read_text())
    for result in old["results"]:
        result["wall_seconds"] = [1000 * s for s in result["wall_seconds"]]
        result["stages"]["grid"]["seconds"] = [1e-9]
    out.write_text(json.dumps(old))
    capsys.readouterr()
    assert run(*arguments, "--compare", out) == 0
    lines = capsys.readouterr().out.split("## Compared with")[1].splitlines()
    verdicts = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines if line.startswith("|")}
    assert verdicts["wall"] == "faster" and verdicts["grid"] == "slower"
    assert run("--workload", tiny, "--workers", 2, "--repeat", 1, "--stages", "grid", "--compare", out) == 0
    assert "no run of the same workload" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "vla-h"], "there is no workload 'vla-h': did you mean 'vla-hi'?"),
        (["--workload", "none.yaml"], "cannot read the workload none.yaml: No such file or directory"),
        (["--worklod", "vla-hi"], "unknown option '--worklod': did you mean '--workload'?"),
        (["--stages", "gird"], "no stage 'gird': did you mean 'grid'?"),
        (["scaling"], "unknown option 'scaling'; see python -m gpucube.bench --help"),
        (["--chunksize", "4,x"], "argument --chunksize: 'x' should be -1, 1 or more, or auto"),
        (["--workers", "0"], "argument --workers: 0 should be at least 1"),
        (["--repeat", "two"], "argument --repeat: invalid positive value: 'two'"),
        (["--seconds", "-1"], "argument --seconds: -1 should be 0 or more"),
        (["--device", "gpu"], "argument --device: invalid choice: 'gpu'"),
        (["--compare", "none.json"], "cannot read the older result none.json: No such file or directory"),
        (["--json", "no/such/folder/x.json"], "argument --json: there is no folder"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"imsise": 64}, "unknown parameter 'imsise': did you mean 'imsize'?"),
        ({"channels": "many"}, "channels='many': expected a whole number from 1"),
        ({"channels": 0}, "channels=0: expected a whole number from 1"),
        ({"array": "vla"}, "array='vla': expected 'vla-a', "),
        ({"bright": 2}, "bright=2: expected a number from 0 to 1"),
        ({"imsize": 65}, "imsize=65: expected an even number from 16"),
        ({"cell": 4000}, "64 pixels of this size are more than a radian of sky"),
        ({"like": "vla-lo"}, "there is no workload 'vla-lo'"),
    ],
)
def test_a_wrong_workload_file_is_reported_in_one_line(
    tiny: str, fields: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(tiny).write_text(yaml.safe_dump(TINY | fields))
    assert run("--workload", tiny) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_workload_file_may_start_from_a_built_in_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("like: alma-line\nchannels: 30\n")
    assert find_workload(str(path)) == WORKLOADS["alma-line"].changed(name="mine", description="", channels=30)


def test_built_in_workloads_are_what_they_say() -> None:
    rows = {name: w.rows for name, w in WORKLOADS.items()}
    assert rows["vla-hi"] == 570 * 27 * 26 // 2 == 200_070
    assert WORKLOADS["vla-hi"].channels == 117 and WORKLOADS["vla-hi"].imsize == 512
    assert (WORKLOADS["alma-line"].channels, WORKLOADS["alma-line"].imsize) == (512, 1024)
    assert WORKLOADS["huge-image"].imsize == 8000
    assert len(WORKLOADS["one-bright"].bright_channels) == 1
    assert len(WORKLOADS["all-bright"].bright_channels) == WORKLOADS["all-bright"].channels


def test_a_workload_is_cut_to_the_machine_and_says_so(tmp_path: Path) -> None:
    free = WORKLOADS["snapshot"]
    assert fitted_to_machine(free, 1, float("inf"), tmp_path) == (free, 1, [])
    cut, workers, notes = fitted_to_machine(WORKLOADS["vla-hi"], 1, 5.0, tmp_path)
    assert 1 < cut.channels < 117 and (cut.imsize, workers) == (512, 1)
    assert notes == [f"117 channels -> {cut.channels}: 5 s a run"]
    cut, _, notes = fitted_to_machine(WORKLOADS["huge-image"], 500, 10.0, tmp_path)
    assert cut.imsize < 8000 and any("500 workers ->" in n for n in notes) and any("8000 x 8000" in n for n in notes)


def test_the_store_of_a_workload_holds_its_sky_and_its_noise(tmp_path: Path) -> None:
    workload = Workload(**TINY | {"sources": 1, "noise": 0.02, "integrations": 20, "name": "sky"})
    store = make_store(workload, str(tmp_path / "store"))
    bright = list(workload.bright_channels)
    weight = 2 / 0.02**2
    for channel in range(workload.channels):
        s = store.samples(PlaneKey(channel=channel, stokes=0)).in_order()
        counted = s.weight > 0
        assert counted.sum() == store.counts[0, 0, channel] == pytest.approx(0.95 * workload.rows, rel=0.01)
        np.testing.assert_allclose(s.weight[counted], weight, rtol=1e-6)
        # one source of 0.1 Jy: |V|^2 is 0.01 everywhere; the noise of the mean is far below the 5 % allowed
        expected = 0.1**2 * weight / 2 * (channel in bright) + 1
        assert store.power[0, 0, channel] == pytest.approx(expected, rel=0.05)
    scene = scene_of(workload, store)
    (record,) = image_chunk(scene.with_cubes(str(tmp_path / "c")), CpuKind().make(scene.job.settings), [bright[0]])
    # 7,000 samples of 0.02 / sqrt(2) Jy: the flux is known to 0.2 mJy
    assert record.model_flux == pytest.approx(0.1, abs=0.005)


def test_a_workload_has_the_uvw_of_its_array(tmp_path: Path) -> None:
    workload = Workload(**TINY | {"name": "uvw"})
    longest = make_store(workload, str(tmp_path / "store")).max_uvw_wavelengths()[0] * LIGHT_SPEED / 1.420e9
    assert 900 < longest < 1200, "the VLA's D configuration has baselines of up to 1.03 km"
    assert workload.geometry.cell_x == pytest.approx(np.deg2rad(20 / 3600))


def test_what_binds_is_the_kind_of_work_with_the_largest_share() -> None:
    stages = {
        "grid": Stage([2.0], Floor(seconds=1.0, kind="gridding")),
        "psf": Stage([3.0], Floor(seconds=1.0, kind="gridding")),
        "write": Stage([4.0], Floor(seconds=4.0, kind="disk")),
        "idle": Stage([1.0]),
    }
    outcome = Outcome(definition={}, stages=stages, walls=[10.0])
    assert binding(outcome).endswith("(psf, grid: 50% of the time, 2.5 times the floor)")
    assert outcome.accounted == 1.0


def test_spread_is_over_the_median_and_chunk_sizes_are_a_list() -> None:
    assert spread([1.0, 2.0, 4.0]) == 1.5 and spread([0.0, 0.0]) == 0.0
    assert chunk_sizes("-1,8,auto") == [-1, 8, "auto"]
