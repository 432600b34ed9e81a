"""The command line: options from the schema, YAML beneath them, one line and status 2 for a mistake."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from records import channel_record

from gpucube import cli
from gpucube.cli import COMMANDS, failures, job_parameters, main, summary
from gpucube.errors import GpucubeError
from gpucube.output.records import StopCode
from gpucube.schema.parameters import Parameters, make_parameters

REPOSITORY = Path(__file__).resolve().parents[2]


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says on a mistake, checked to be one line on standard error with status 2."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gpucube: error: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("gpucube: error: ").rstrip("\n")


def run_python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_options_give_the_same_parameters_as_python() -> None:
    line = (
        "a.ms b.ms --imagename out/x --imsize 512,256 --cell 0.2arcsec --width -2 --robust -0.5 --niter 1e4 "
        "--threshold 3mJy --uvtaper 5klambda,3klambda,45deg --spw 0:5~20;30~40,1 --memory 8GB --overwrite --no-quiet "
        "--restfreq=230.538GHz --products psf,image"
    )
    from_text = job_parameters("image", line.split())
    from_python = make_parameters(
        vis=["a.ms", "b.ms"], imagename="out/x", imsize=[512, 256], cell=0.2, width=-2, robust=-0.5, niter=10000,
        threshold=0.003, uvtaper=["5klambda", "3klambda", "45deg"], spw="0:5~20;30~40,1", memory=8e9, overwrite=True,
        quiet=False, restfreq=230.538e9, products=("image", "psf"),
    )  # fmt: skip
    assert from_text == from_python


def test_options_may_come_before_and_between_the_measurement_sets() -> None:
    parameters = job_parameters("image", ["--niter", "10", "a.ms", "--imagename", "x", "b.ms"])
    assert parameters.vis == ("a.ms", "b.ms")
    assert parameters.niter == 10


def test_every_parameter_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["image", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for name in (field.replace("_", "-") for field in Parameters.model_fields):
        assert name == "vis" or f"--{name} " in text or f"--{name}, " in text, name
    assert "80 %" in " ".join(text.split())  # a per cent sign in a description survives argparse


def test_plan_names_the_image_after_the_measurement_set() -> None:
    assert job_parameters("plan", ["data/a.ms"]).imagename == "a"
    with pytest.raises(GpucubeError, match=r"^`imagename` is missing"):
        job_parameters("image", ["data/a.ms"])


def test_options_override_the_yaml_file(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(
        "vis: [a.ms, b.ms]\nimagename: x\nimsize: [64, 128]\ncell: 2arcsec\nniter: 100\nepsilon: 1e-5\noverwrite: yes\n"
        "restoringbeam: [1arcsec, 0.8arcsec, 30deg]\nworkers: null\n"
    )
    parameters = job_parameters("image", ["--config", str(config), "--niter", "7", "--no-overwrite"])
    assert parameters.vis == ("a.ms", "b.ms")
    assert parameters.imsize == (64, 128)
    assert parameters.cell == (2.0, 2.0)
    assert parameters.epsilon == 1e-5
    assert parameters.restoringbeam == (1.0, 0.8, 30.0)
    assert parameters.workers is None
    assert parameters.niter == 7
    assert parameters.overwrite is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imgsize: 64", "{path}: unknown parameter 'imgsize': did you mean 'imsize'?"),
        ("imsize: 63", "{path}: --imsize 63: 63 must be even and at least 32; the next good size is 64"),
        ("- imsize", "{path} is not a list of parameters; write lines such as 'imsize: 512'"),
        ("just words", "{path} is not a list of parameters; write lines such as 'imsize: 512'"),
        ("1: 2", "{path} is not a list of parameters; write lines such as 'imsize: 512'"),
        ("imsize: [1", "{path} line 1 is not YAML: expected ',' or ']', but got '<stream end>'; "
         "write lines such as 'imsize: 512'"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert mistake(capsys, "image", "a.ms", "--imagename", "x", "--config", str(path)) == message.format(path=path)


def test_a_yaml_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.yaml"
    assert mistake(capsys, "image", "a.ms", "--config", str(missing)) == (
        f"cannot read the configuration {missing}: No such file or directory"
    )
    assert "Is a directory" in mistake(capsys, "image", "a.ms", "--config", str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    assert "it is not a text file" in mistake(capsys, "image", "a.ms", "--config", str(binary))
    control = tmp_path / "control.yaml"
    control.write_bytes(b"imsize: \x01")
    assert str(control) in mistake(capsys, "image", "a.ms", "--config", str(control))


def test_an_empty_yaml_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("# nothing yet\n")
    assert job_parameters("plan", ["a.ms", "--config", str(path)]) == job_parameters("plan", ["a.ms"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND; see gpucube --help"),
        ("imgae a.ms", "unknown command 'imgae': did you mean 'image'?; see gpucube --help"),
        ("image", "expected a MeasurementSet: give one path or several"),
        ("image a.ms --imgsize 3", "unknown option '--imgsize': did you mean '--imsize'?; see gpucube image --help"),
        ("image a.ms --imsiz=3", "unknown option '--imsiz': did you mean '--imsize'?; see gpucube image --help"),
        ("image a.ms --nit 3", "unknown option '--nit': did you mean '--niter'?; see gpucube image --help"),
        ("image a.ms -x", "unknown option '-x'; see gpucube image --help"),
        (
            "plan --vis a.ms",
            "MeasurementSets are given without an option, as in 'target.ms --imagename out/target'; see gpucube plan --help",
        ),
        ("image a.ms --imagename", "argument --imagename: expected one argument; see gpucube image --help"),
        ("image a.ms --imagename x --cell 1", "--cell 1: '1' has no unit; write e.g. '1arcsec'"),
        ("image a.ms --imagename x --threshold -1mJy",
         "--threshold -1mJy: a threshold cannot be negative; expected e.g. '3mJy', or 0 for none"),
        ("image a.ms --imagename x --interactive", "--interactive is not available: gpucube opens no viewer: draw regions on the "
         "dirty cube (--niter 0) in CARTA, save them as a CRTF or DS9 file, and give this file as --mask"),
        ("simulate", "the following arguments are required: OUT.ms; see gpucube simulate --help"),
        ("simulate x.ms --nchn 3", "unknown option '--nchn': did you mean '--nchan'?; see gpucube simulate --help"),
        ("simulate x.ms --nchan 0", "--nchan 0: expected a whole number from 1"),
        ("simulate x.ms --antennas 30", "--antennas 30: vla-d has 27"),
        ("demo --outt x", "unknown option '--outt': did you mean '--out'?; see gpucube demo --help"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    assert mistake(capsys, *line.split()) == message


def test_simulate_writes_what_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sky.ms"
    line = f"simulate {out} --antennas 4 --ntime 2 --nchan 4 --npol 4 --chan-width -1e4Hz --flagrow-only"
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    assert (out / "table.dat").is_file()
    assert str(out) in printed
    assert mistake(capsys, *line.split()).startswith(f"{out} exists already")


def test_both_names_are_the_same_command() -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "gpucube", "image", "a.ms", "--imgsize", "3"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "gpucube: error: unknown option '--imgsize': did you mean '--imsize'?; see gpucube image --help\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["image", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom gpucube.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted(name for name in sys.modules if '.' not in name))"
    )
    loaded = run_python(code).rpartition("LOADED")[2].split()
    assert "gpucube" in loaded
    assert not {"numpy", "scipy", "astropy", "numba", "ducc0", "casacore", "dask", "matplotlib", "rich"} & set(loaded)


def test_an_interrupt_is_one_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "demo", (interrupted, COMMANDS["demo"][1]))
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == "gpucube: interrupted"


@pytest.mark.parametrize("gone", [False, True], ids=["", "folder removed"])
def test_a_defect_is_one_line_that_names_the_file_of_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, gone: bool
) -> None:
    def broken(arguments: object) -> int:
        error = KeyError("no such\nthing")
        error.add_note("3 of 5 channels are safe on disk, the same call with `resume=True` continues the run")
        raise error

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if gone:
        here.rmdir()
    monkeypatch.setitem(cli.COMMANDS, "demo", (broken, COMMANDS["demo"][1]))
    assert main(["demo"]) == 3
    (log,) = (tmp_path if gone else here).glob("gpucube-error-*.log")
    assert capsys.readouterr().err == (
        "gpucube: internal error: KeyError: 'no such\\nthing'; 3 of 5 channels are safe on disk, the same call with --resume "
        f"continues the run; please report it with {log}\n"
    )
    assert log.read_text().startswith("Traceback (most recent call last):")
    assert "raise error" in log.read_text()


@pytest.mark.parametrize(
    "command", ["image {ms} --imagename {out}", "plan {ms}", "simulate {out}.ms", "demo --out {out}"]
)
def test_a_current_folder_that_was_removed_is_one_line(command: str, tiny_ms: Any, tmp_path: Path) -> None:
    """casacore aborts a process whose folder is gone."""
    words = command.format(ms=tiny_ms.ms, out=tmp_path / "out").split()
    leave = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    code = f"{leave}\nfrom gpucube.cli import main\nmain({words!r})"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stderr.startswith("gpucube: error: the current folder is gone (")
    assert done.stderr.count("\n") == 1


def test_warnings_that_were_made_errors_are_one_line(
    tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "image",
        str(tiny_ms.ms),
        "--imagename",
        str(tmp_path / "out"),
        "--cell",
        "20arcsec",
        "--niter",
        "3",
        "--quiet",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(words) == 2
    assert capsys.readouterr().err.startswith("gpucube: error: --niter 3 is the only limit")


def test_the_summary_counts_channels_by_stop_reason_and_names_the_products() -> None:
    codes = [StopCode.NSIGMA, StopCode.NSIGMA, StopCode.NO_DATA]
    records = [channel_record(channel, stop_code=code) for channel, code in enumerate(codes)]
    lines = summary(records, {"image": "out/x.image.fits", "summary": "out/x.summary.json"}, 9.24).splitlines()
    assert lines[0] == "3 channels in 9.2 s"
    assert lines[1].split(maxsplit=1) == ["2", "n-sigma threshold"]
    assert lines[2].split(maxsplit=1) == ["1", "no data"]
    assert lines[3:] == ["image    out/x.image.fits", "summary  out/x.summary.json"]


def test_failed_channels_are_named_in_runs() -> None:
    assert failures([7]) == "1 channel failed: 7"
    assert failures([9, 4, 7, 8]) == "4 channels failed: 4, 7~9"


def at_a_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    gpucube = f"{shlex.quote(sys.executable)} -m gpucube"
    # what cannot be written stays in the buffer of a stream, if it has one
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", command.replace("gpucube", gpucube)], cwd=folder, capture_output=True, text=True, env=buffered
    )


def test_standard_output_may_be_closed_full_or_left_by_its_reader(tiny_ms: Any, tmp_path: Path) -> None:
    job = f"{shlex.quote(str(tiny_ms.ms))} --imsize 64 --cell 20arcsec --device cpu --quiet --workers 1"
    left = at_a_shell(f"gpucube plan {job} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (left.returncode, left.stderr) == (0, "")
    for words in (f"plan {job}", "--help"):
        full = at_a_shell(f"gpucube {words} > /dev/full", tmp_path)
        assert full.returncode == 2
        assert full.stderr == "gpucube: error: cannot write to standard output: No space left on device\n"
    full = at_a_shell("gpucube demo --out demo > /dev/full", tmp_path)
    assert full.returncode == 2
    assert full.stderr == "gpucube: error: cannot write to standard output: No space left on device\n"
    full = at_a_shell("gpucube.bench --help > /dev/full", tmp_path)
    assert full.returncode == 2
    assert full.stderr == "gpucube.bench: error: cannot write to standard output: No space left on device\n"
    done = at_a_shell(f"gpucube image {job} --imagename full > /dev/full", tmp_path)
    assert done.returncode == 0, "the cube is there"
    assert done.stderr == "gpucube: warning: cannot write to standard output: No space left on device\n"


def test_standard_streams_that_are_closed_are_not_taken_for_files(tiny_ms: Any, tmp_path: Path) -> None:
    """The system gives the next file the number of a closed stream, and messages would be written into it."""
    job = f"{shlex.quote(str(tiny_ms.ms))} --imsize 64 --cell 20arcsec --device cpu --workers 1"
    for name, closed in (("usual", ""), ("without", "<&- >&- 2>&-"), ("full", "2>/dev/full")):
        assert at_a_shell(f"gpucube image {job} --imagename {name}/cube {closed}", tmp_path).returncode == 0
    usual, *others = ((tmp_path / name / "cube.residual.fits").read_bytes() for name in ("usual", "without", "full"))
    assert all(other[-12 * 64 * 64 * 4 :] == usual[-12 * 64 * 64 * 4 :] for other in others)
    for closed in ("2>&-", "2>/dev/full"):
        wrong = at_a_shell(f"gpucube image nothing.ms --imagename x {closed}", tmp_path)
        assert wrong.returncode == 2
        wrong = at_a_shell(f"gpucube.bench --workload nothing {closed}", tmp_path)
        assert wrong.returncode == 2
