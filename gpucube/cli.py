"""The command line: ``gpucube image | simulate | demo | plan | report``.

In: arguments, and with ``--config`` a YAML file whose values the arguments override. Out: what the command writes, a
short summary on standard output, and the exit status: 0 all channels imaged, 1 some channels failed, 2 a mistake of
the user (one line on standard error), 3 a defect of gpucube (one line, and its traceback in a file), 130 interrupted.

The options come from the schemas (`gpucube.schema.parameters.Parameters`, `gpucube.simulate.SimulationParameters`),
so they cannot drift from the Python API. Each command imports its own heavy libraries, so that help and mistakes
appear at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpucube import streams
from gpucube.environment import check_for_libraries
from gpucube.errors import GpucubeError
from gpucube.execution.signals import signals_interrupt
from gpucube.text import counted, did_you_mean, one_line, ranges

if TYPE_CHECKING:
    from pydantic import BaseModel

    from gpucube.execution.tuning import Tuning
    from gpucube.schema.parameters import Parameters


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises `GpucubeError`, and names the nearest right option for an unknown one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def _print_message(self, message: str, file: object = None) -> None:
        streams.show(message, end="")

    def error(self, message: str) -> NoReturn:
        raise GpucubeError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the options that were given, by name."""
        known, unknown = self.parse_known_intermixed_args(_join_negative_values(arguments))
        if unknown:
            option = unknown[0].partition("=")[0]
            if option == "--vis":
                self.error("MeasurementSets are given without an option, as in 'target.ms --imagename out/target'")
            self.error(f"unknown option {option!r}{did_you_mean(option, self._option_string_actions)}")
        return {name: value for name, value in vars(known).items() if value not in (None, [])}


def _join_negative_values(arguments: Sequence[str]) -> list[str]:
    """Write ``--width -1`` as ``--width=-1``, since argparse would take ``-1`` for an option."""
    joined: list[str] = []
    for position, word in enumerate(arguments):
        previous = arguments[position - 1] if position else ""
        if word == "--":
            return joined + list(arguments[position:])
        if re.match(r"-[^-]", word) and word != "-h" and re.match(r"--[^=]+$", previous):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def _add_options(parser: argparse.ArgumentParser, model: type[BaseModel], leave_out: Iterable[str]) -> None:
    """Add one option for each field of the schema."""
    from gpucube.schema.validation import about

    groups: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        it = about(field)
        if it.group not in groups:
            groups[it.group] = parser.add_argument_group(it.group) if it.group else parser
        holder = groups[it.group]
        option = "--" + name.replace("_", "-")
        if field.annotation is bool:
            holder.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=_escape(it.description)
            )
            continue
        notes = [it.accepts] if it.accepts else []
        depends = field.is_required() or field.default_factory  # on the user, or on other fields
        default = None if depends else field.default
        if default not in (None, "", ()):
            notes.append(f"default {','.join(default) if isinstance(default, tuple) else default}")
        text = it.description + (f" ({'; '.join(notes)})" if notes else "")
        holder.add_argument(option, default=argparse.SUPPRESS, metavar=it.metavar, help=_escape(text))


def _escape(text: str) -> str:
    return text.replace("%", "%%")


_JOBS = {
    "image": ("--imagename OUT", "Image and deconvolve every channel of MeasurementSets into one FITS cube."),
    "plan": ("", "Say what 'gpucube image' would do and need, without imaging."),
}


def _job_parser(command: str) -> _Parser:
    """Make the parser of ``image`` or ``plan``, which take the same parameters."""
    from gpucube.schema.parameters import Parameters
    from gpucube.schema.tclean import ABSENT_PARAMETERS, OTHER_NAMES

    required, description = _JOBS[command]
    parser = _Parser(
        prog=f"gpucube {command}",
        usage=" ".join(f"gpucube {command} VIS ... {required} [options]".split()),
        description=description,
        epilog="Lists are written with commas: --imsize 512,256. Quantities take units: --cell 0.2arcsec.",
    )
    parser.add_argument("vis", nargs="*", metavar="VIS", help=_escape(str(Parameters.model_fields["vis"].description)))
    parser.add_argument("--config", metavar="FILE.yaml", help="parameters by name; options given here override them")
    _add_options(parser, Parameters, leave_out=("vis",))
    for name in (*ABSENT_PARAMETERS, *OTHER_NAMES):  # accepted where they change nothing, and not in the help
        flag = name in ABSENT_PARAMETERS and isinstance(ABSENT_PARAMETERS[name].default, bool)
        kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if flag else {}
        parser.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kind)
    return parser


def read_config(path: str) -> dict[str, Any]:
    """Read and check a YAML file that maps names of parameters to values; `vis` and `imagename` may be missing.

    Raises
    ------
    GpucubeError
        The file cannot be read, is not YAML, is not a mapping, or has a wrong parameter.
    """
    import yaml

    from gpucube.schema.parameters import make_parameters

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise GpucubeError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise GpucubeError(f"cannot read the configuration {path}: it is not a text file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not a text file"
        raise GpucubeError(f"{path}{where} is not YAML: {problem}; write lines such as 'imsize: 512'") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise GpucubeError(f"{path} is not a list of parameters; write lines such as 'imsize: 512'")
    try:
        make_parameters(**({"vis": "any", "imagename": "any"} | values))
    except GpucubeError as error:
        raise GpucubeError(f"{path}: {error}") from None
    return values


def job_parameters(command: str, arguments: Sequence[str]) -> Parameters:
    """Return the parameters of one job: those of the YAML file, overridden by those of the command line.

    For the command ``"plan"``, `imagename` defaults to the name of the MeasurementSet. `arguments` are the words after the
    command. The first mistake raises `GpucubeError`.
    """
    from gpucube.schema.parameters import make_parameters

    given = _job_parser(command).parse(arguments)
    config = given.pop("config", None)
    values = (read_config(config) if config is not None else {}) | given
    if "vis" not in values:
        raise GpucubeError("expected a MeasurementSet: give one path or several")
    if command == "plan" and "imagename" not in values:
        first = values["vis"] if isinstance(values["vis"], str) else values["vis"][0]
        # the user did not choose this name, so an existing file is no reason to refuse
        values |= {"imagename": Path(first).stem, "overwrite": not values.get("resume")}
    return make_parameters(**values)


def _image(arguments: Sequence[str], tuning: Tuning | None = None) -> int:
    parameters = job_parameters("image", arguments)
    from gpucube import run
    from gpucube.execution.tuning import DEFAULT_TUNING

    begun = time.monotonic()
    result = run.image(parameters, tuning=tuning or DEFAULT_TUNING)
    try:
        kept = {"data": result.visibilities} if result.visibilities else {}
        streams.show(summary(result.channels, result.products | kept, time.monotonic() - begun))
    except GpucubeError as error:  # the cube is there all the same
        streams.tell(f"gpucube: warning: {error}")
    if result.failed_channels:
        streams.tell(f"gpucube: {failures(result.failed_channels)}")
        return 1
    return 0


def summary(channels: Sequence[Any], products: dict[str, Any], seconds: float) -> str:
    """Return what ``gpucube image`` prints at its end: wall time, channels by stop reason, paths."""
    reasons = Counter(record.stop_reason for record in channels)
    width = max((len(name) for name in products), default=0)
    lines = [f"{len(channels)} channels in {seconds:.1f} s"]
    lines += [f"  {count:6d}  {reason}" for reason, count in reasons.most_common()]
    if retried := [record.channel for record in channels if record.retried]:
        lines.append(f"  diverged once, were rolled back and cleaned again: {ranges(retried)}")
    lines += [f"{name:<{width}}  {path}" for name, path in products.items()]
    return "\n".join(lines)


def failures(channels: Iterable[int]) -> str:
    """``"3 channels failed: 4, 7~8"``."""
    numbers = list(channels)
    return f"{counted(len(numbers), 'channel')} failed: {ranges(numbers)}"


def _plan(arguments: Sequence[str]) -> int:
    parameters = job_parameters("plan", arguments)
    from gpucube import run

    plan, hardware = run.plan(parameters)
    text = at_the_shell(plan)
    streams.show("\n".join([hardware.note, text] if hardware.note else [text]))
    return 0


def _simulate(arguments: Sequence[str]) -> int:
    from gpucube.schema.validation import validated
    from gpucube.simulate import SimulationParameters, simulate_ms

    parser = _Parser(
        prog="gpucube simulate", description="Write a simulated spectral-line MeasurementSet and its truth."
    )
    parser.add_argument(
        "out", metavar="OUT.ms", help=_escape(str(SimulationParameters.model_fields["out"].description))
    )
    _add_options(parser, SimulationParameters, leave_out=("out",))
    result = simulate_ms(validated(SimulationParameters, parser.parse(arguments)))
    lines = [f"ms     {result.ms}", f"truth  {result.truth}"]
    streams.show("\n".join(lines + [f"  {name}: {value}" for name, value in result.summary.items()]))
    return 0


def _demo(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="gpucube demo", description="Simulate an observation, image it, and compare with the truth.")
    parser.add_argument("--out", default="gpucube-demo", metavar="DIR", help="folder to write to (default %(default)s)")
    given = parser.parse(arguments)
    from gpucube.demo import run_demo

    return run_demo(Path(given["out"]))


def _report(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="gpucube report", description="Write one HTML page with plots about a finished or unfinished run."
    )
    parser.add_argument("imagename", metavar="OUT", help="imagename of the run")
    parser.add_argument("--html", default="", metavar="FILE", help="path of the page (default OUT.report.html)")
    given = parser.parse(arguments)
    from gpucube.report.page import write_report

    streams.show(str(write_report(given["imagename"], given["html"])))
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "image": (_image, "image and deconvolve MeasurementSets into a cube"),
    "simulate": (_simulate, "write a simulated spectral-line MeasurementSet with its truth"),
    "demo": (_demo, "simulate, image and compare with the truth"),
    "plan": (_plan, "say what image would do and need, without imaging"),
    "report": (_report, "write one HTML page about a finished or unfinished run"),
}


def _run(arguments: Sequence[str], tuning: Tuning | None) -> int:
    from gpucube.version import __version__

    parser = _Parser(
        prog="gpucube",
        usage="gpucube COMMAND ...",
        description="Per-channel spectral-line imaging: MeasurementSets in, one deconvolved FITS cube out.",
        epilog="commands:\n" + "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", metavar="COMMAND", help="one of the commands below; COMMAND --help lists its options"
    )
    parser.add_argument("--version", action="version", version=f"gpucube {__version__}")
    command = parser.parse(arguments[:1])["command"]
    if command not in COMMANDS:
        parser.error(f"unknown command {command!r}{did_you_mean(command, COMMANDS)}")
    check_for_libraries()
    if command == "image":
        return _image(arguments[1:], tuning)
    return COMMANDS[command][0](arguments[1:])


def main(arguments: Sequence[str] | None = None, *, tuning: Tuning | None = None) -> int:
    """Run the command line.

    `arguments` are by default those of the process, without the program's name. `tuning` has limits and times of `gpucube image`.
    The exit status is 0, 1 (some channels failed), 2 (a mistake, in one line on standard error), 3 (a defect of gpucube, whose
    traceback is in a file) or 130 (interrupted).
    """
    _open_standard_streams()
    try:
        with signals_interrupt(lasting=arguments is None), _warnings_in_one_line():
            return _run(sys.argv[1:] if arguments is None else list(arguments), tuning)
    except GpucubeError as error:
        streams.tell(f"gpucube: error: {at_the_shell(error)}")
        return 2
    except KeyboardInterrupt as interruption:
        streams.tell(f"\ngpucube: {at_the_shell(interruption) or 'interrupted'}")
        return 130
    except Warning as warning:  # the user has asked Python to make errors of warnings
        streams.tell(f"gpucube: error: {at_the_shell(warning)}")
        return 2
    except MemoryError:
        streams.tell("gpucube: error: the system has no more memory: give the job more")
        return 2
    except Exception as error:
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        streams.tell(f"gpucube: internal error: {one_line(error)}{at_the_shell(notes)}; {_kept_traceback()}")
        return 3


def _kept_traceback() -> str:
    """Write the traceback of the exception being handled to a file in this folder, or in one for temporary files; say where."""
    text = traceback.format_exc()
    name = f"gpucube-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (os.getcwd, tempfile.gettempdir):
        with contextlib.suppress(OSError):
            path = os.path.join(folder(), name)
            Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
            return f"please report it with {path}"
    streams.tell(text)
    return "please report it with the lines above"


def _open_standard_streams() -> None:
    """Open the null device for standard streams that are closed. Otherwise the next files would get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print each warning as one line on standard error."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        streams.tell(f"gpucube: warning: {at_the_shell(' '.join(str(message).split()))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def at_the_shell(message: object) -> str:
    """Rewrite a message for the shell: the parameters that it names in backticks become options.

    Examples
    --------
    >>> at_the_shell("out.fits exists: `overwrite=True` replaces it")
    'out.fits exists: --overwrite replaces it'
    """

    def option(match: re.Match[str]) -> str:
        name, value = match.group(1), match.group(2)
        words = "--" + name.replace("_", "-")
        if value is None or value == "True":
            return words
        return words.replace("--", "--no-", 1) if value == "False" else f"{words} {value.strip(chr(39))}"

    return re.sub(r"`([a-z_]+)(?:=([^`]*))?`", option, str(message))
