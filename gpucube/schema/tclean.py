"""tclean's names: its parameters that gpucube does not have, its values that gpucube lacks, and its defaults.

In: parameters with tclean's names and values as a user wrote them. Out: values that the schema knows. A parameter without effect
is left out, and one that has another name here is renamed. One that would change the result is refused, with advice.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gpucube.errors import GpucubeError

DRAW = (
    "draw regions on the dirty cube (`niter=0`) in CARTA, save them as a CRTF or DS9 file, and give this file as `mask`"
)


@dataclass(frozen=True)
class Absent:
    """A parameter of tclean that gpucube does not have."""

    default: Any  # tclean's, which changes nothing
    advice: str = ""  # what to do instead of another value; empty if no value would change a cube that gpucube can make

    def changes_nothing(self, value: Any) -> bool:
        """Whether gpucube does with this value what tclean does."""
        if isinstance(value, str):
            with suppress(ValueError, SyntaxError):  # text of the command line
                value = ast.literal_eval(value)
        if not self.advice or is_empty(value):
            return True
        if isinstance(value, str) and isinstance(self.default, str):
            return value.strip().lower() == self.default.lower()
        return bool(value == self.default)


def is_empty(value: Any) -> bool:
    """Whether a value is what tclean takes for "not given": None, '', [] or ['']."""
    if isinstance(value, list | tuple):
        return all(is_empty(item) for item in value)
    return value is None or (isinstance(value, str) and not value.strip())


def _absent(advice: str = "", **defaults: Any) -> dict[str, Absent]:
    return {name: Absent(default, advice) for name, default in defaults.items()}


ABSENT_PARAMETERS: dict[str, Absent] = {
    **_absent("the projection is always SIN; leave it out", projection="SIN"),
    **_absent("`gridder='wgridder'` takes the w term into account without facets; leave it out", facets=1),
    **_absent(
        "gpucube knows the primary beams of many telescopes; leave it out, or give `dish_diameter` for others",
        vptable="",
    ),
    **_absent("gpucube images one field without primary-beam terms; leave it out", normtype="flatnoise"),
    **_absent("the beam is fitted without such a setting; leave it out", psfcutoff=0.35),
    **_absent("image each outlier field in a separate run", outlierfile=""),
    **_absent(f"gpucube opens no viewer: {DRAW}", interactive=False),
    **_absent(
        "gpucube does not write to MeasurementSets; leave it out, and let CASA's importfits and ft write the model",
        savemodel="none",
    ),
    # of continua, mosaics, wide fields and briggsabs
    **_absent(reffreq="", nterms=2, wprojplanes=1, psfphasecenter="", mosweight=True, aterm=True, psterm=False),
    **_absent(wbawp=True, conjbeams=False, cfcache="", usepointing=False, computepastep=360.0, rotatepastep=360.0),
    **_absent(pointingoffsetsigdev=[], fusedthreshold=0.0, largestscale=-1),
    # of how tclean works
    **_absent(parallel=False, chanchunks=1, fullsummary=False, verbose=False, selectdata=True),
}
"""tclean's parameters that gpucube does not have: their defaults, and what to do instead of other values."""

ABSENT_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "specmode": (("mfs", "cont", "mtmfs", "mvc"), "gpucube makes cubes only; use `specmode='cube'`"),
    "deconvolver": (
        ("mtmfs", "clarkstokes", "clarkstokes_exp", "asp", "mem"),
        "use `deconvolver='hogbom'` or `deconvolver='multiscale'`",
    ),
    "gridder": (
        ("mosaic", "mosaicft", "ftmosaic", "imagemosaic", "awproject", "awprojectft", "awp2", "awphpg"),
        "gpucube makes no mosaics and corrects no primary beams during gridding; image each pointing separately with"
        " its `field` and `gridder='standard'` (`gridder='wgridder'` for wide fields), and with `pbcor=True` if wanted",
    ),
    "outframe": (("SOURCE",), "use `specmode='cubesource'`, or `outframe='LSRK'`"),
}
"""Values that tclean takes and gpucube does not, and what to do instead."""

OTHER_NAMES = {"cube_chunksize": "chunksize", "nworkers": "workers"}
"""Names in pclean -> gpucube's."""

OLD_NAMES = {
    **{"mode": "specmode", "imagermode": "gridder", "ftmachine": "gridder", "psfmode": "deconvolver"},
    **{"multiscale": "scales", "scalebias": "smallscalebias", "modelimage": "startmodel", "minpb": "pblimit"},
    **{"outertaper": "uvtaper", "npercycle": "cycleniter", "loopgain": "gain", "usescratch": "savemodel"},
}
"""Names in CASA's old task clean -> tclean's, for messages."""

SELECTIONS = ("timerange", "uvrange", "antenna", "scan", "observation", "intent")
"""Parameters that tclean ignores with `selectdata=False`."""

SAME_VALUES: dict[str, dict[str, tuple[str, str]]] = {
    "datacolumn": {"observed": ("data", "")},
    "deconvolver": dict.fromkeys(
        ("clark", "clark_exp"), ("hogbom", "'hogbom' with `minorcycle='activeset'` does what Clark's algorithm does")
    ),
    "gridder": {
        **dict.fromkeys(("ft", "gridft"), ("standard", "")),
        **dict.fromkeys(
            ("wproject", "wprojectft", "widefield"),
            ("wgridder", "'wgridder' takes the w term into account, to `epsilon`"),
        ),
    },
}
"""Values of tclean, what gpucube does instead, and what to say about it, if anything."""


def from_tclean(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn parameters with tclean's names and values into those of the schema, and say where they mean something else.

    Raises
    ------
    GpucubeError
        A parameter or a value of tclean that would change the result is not available.
    """
    known: dict[str, Any] = {}
    notes = []
    selects = str(values.get("selectdata", True)).strip().lower() not in ("false", "0")
    for name, value in values.items():
        if name in SELECTIONS and not selects:
            notes += [] if is_empty(value) else [f"`selectdata=False`: `{name}={value!r}` is not used, as in tclean"]
            continue
        if name in ABSENT_PARAMETERS:
            if not ABSENT_PARAMETERS[name].changes_nothing(value):
                raise GpucubeError(f"`{name}={value!r}` is not available: {ABSENT_PARAMETERS[name].advice}")
            continue
        written = value.strip().lower() if isinstance(value, str) else ""
        absent, advice = ABSENT_VALUES.get(name, ((), ""))
        if written in [item.lower() for item in absent]:
            raise GpucubeError(f"`{name}={value!r}` is not available: {advice}")
        if written in SAME_VALUES.get(name, {}):
            value, note = SAME_VALUES[name][written]
            notes += [f"`{name}={written!r}`: {note}"] if note else []
        known[OTHER_NAMES.get(name, name)] = value
    return known, notes


_NUMBER_UNITS = {"cell": "arcsec"}
"""Unit that tclean adds to text that is a number alone."""


def as_tclean_takes(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Complete a call of tclean: its defaults for what is not given, and its reading of numbers and of empty values.

    Parameters
    ----------
    given : mapping
        Parameters of tclean and of gpucube as the user wrote them.
    defaults : mapping
        tclean's default of every parameter that has one.

    Returns
    -------
    dict
        For `gpucube.schema.parameters.make_parameters`.
    list of str
        Where gpucube does something else than tclean, one line each.
    """
    values, notes = dict(defaults), list[str]()
    for name, value in given.items():
        words = isinstance(defaults.get(name, "required"), str) and defaults.get(name) != ""
        if value is not None and (words or not is_empty(value)):  # whether a word may be empty is for the schema to say
            values[name] = value
    values = {name: _without_record(value) for name, value in values.items()}
    for name in ("start", "width"):
        if _is_measure(values.get(name)):  # its frame, or its convention of velocities, counts for the cube
            measure = values[name]
            of = "veltype" if measure["type"] == "doppler" else "outframe"
            values |= {name: _without_record(measure["m0"]), of: measure["refer"].lower()}
            if of in given and str(given[of]).lower() not in ("", values[of]):
                notes.append(f"`{of}={given[of]!r}` is not used, because `{name}` is in {measure['refer']}")
    for name, unit in _NUMBER_UNITS.items():
        if name in values:
            values[name] = _with_unit(values[name], unit)
    if str(values.get("datacolumn")).lower() == "corrected":
        values["datacolumn"] = "auto"  # tclean, too, takes DATA where there is no CORRECTED_DATA
    if str(values.get("cycleniter")) == "0":
        values["cycleniter"] = -1
    if not ABSENT_PARAMETERS["interactive"].changes_nothing(values.pop("interactive", False)):
        if is_empty(values.get("mask")) and str(values.get("usemask")).lower() == "user":
            values["niter"] = 0
            notes.append(f"`interactive=True`: gpucube opens no viewer, and makes only the dirty cube now: {DRAW}")
        else:
            notes.append(
                f"`interactive=True`: gpucube opens no viewer, and the mask stays as it is: for another one, {DRAW}"
            )
    if values.get("niter") not in (0, "0"):
        notes.append(f"`niter={values['niter']}` counts for each channel here; tclean counts over all channels")
    return values, notes


def _without_record(value: Any) -> Any:
    """CASA's record of a quantity or a direction as text, also in lists; anything else as it is."""
    if isinstance(value, list):
        return [_without_record(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"unit", "value"}:
        return f"{value['value']}{value['unit']}"
    if _is_measure(value) and value["type"] == "direction" and "m1" in value:
        return f"{value['refer']} {_without_record(value['m0'])} {_without_record(value['m1'])}"
    return value


def _is_measure(value: Any) -> bool:
    """Whether this is CASA's record of a measure."""
    return isinstance(value, dict) and {"m0", "refer", "type"} <= value.keys()


def _with_unit(value: Any, unit: str) -> Any:
    if isinstance(value, list | tuple):
        return [_with_unit(item, unit) for item in value]
    with suppress(ValueError):
        return f"{float(value)!r}{unit}" if isinstance(value, str) else value
    return value
