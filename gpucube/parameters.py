"""The one schema of the main job: every parameter with its name, default, check, unit and description.

In: Python values, text from the command line, or values from a YAML file. Out: `Parameters`, frozen, in base units,
which everything behind the door trusts. Names and defaults are tclean's wherever tclean has the concept.

The same model makes the command line's options (`gpucube.cli`) and the reference page:
``python -m gpucube.parameters > docs/parameters.md``. Every mistake becomes one line (`GpucubeError`), an unknown name
with the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gpucube.errors import GpucubeError
from gpucube.quantities import (
    ANGLE,
    FLUX_DENSITY,
    FREQUENCY,
    MEMORY,
    parse_direction,
    parse_quantity,
    parse_taper_width,
    plain_number,
)
from gpucube.spw import parse_spw

SMALLEST_IMAGE = 32
LARGEST_IMAGE = 65536
PRODUCTS = ("image", "residual", "model", "psf", "dirty", "mask")


# Validators: each takes what the user wrote and gives the base form, which it also accepts (parameters round-trip).


def _as_list(value: Any) -> list[Any]:
    """Several values: a list, an array, or text with commas; one value alone is a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, list | tuple) or getattr(value, "shape", ()) != ():
        return list(value)
    return [value]


def _pair(values: list[Any], what: str) -> list[Any]:
    if len(values) not in (1, 2):
        raise ValueError(f"{len(values)} values given; give one, or two for {what}")
    return values * 2 if len(values) == 1 else values


def _number(value: Any) -> Any:
    """Numbers in any coat: numpy's, or text such as "1e4"; pydantic checks what comes out."""
    value = plain_number(value)
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError as error:
            raise ValueError("a number is wanted") from error
        return int(number) if number.is_integer() else number
    return value


def _paths(value: Any) -> tuple[str, ...]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    paths = tuple(_path(item).rstrip("/") or "/" for item in listed)
    if not paths or not all(paths):
        raise ValueError("no MeasurementSet is named; give one path or several")
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path!r} is named twice")
    return paths


def _path(value: Any) -> str:
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise ValueError("a path is wanted")
    path = str(value)
    if any(ord(character) < 32 for character in path):
        raise ValueError("a path cannot hold a line break or another control character")
    return path


def _imagename(value: Any) -> str:
    path = _path(value)
    if not path.strip() or path.endswith("/"):
        raise ValueError("an output name is wanted, e.g. 'out/target' for out/target.image.fits")
    return path


def _field_name(value: Any) -> str:
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a field's number or name is wanted")
    if isinstance(value, int) and value < 0:
        raise ValueError("fields are numbered from 0")
    return str(value).strip()


def _spw(value: Any) -> str:
    value = plain_number(value)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError("text is wanted, e.g. '0' or '0:5~20;30~40,1'")
    parse_spw(text)
    return text.strip()


def _stokes(value: Any) -> str:
    wanted = "write 'I', 'pseudoI', or several of I, Q, U, V in this order, such as 'IQUV', 'IV' or 'QU'"
    if not isinstance(value, str):
        raise ValueError(wanted)
    if value.lower() == "pseudoi":
        return "pseudoI"
    ordered = "".join(name for name in "IQUV" if name in value.upper())
    if not ordered or value.upper() != ordered:
        raise ValueError(wanted)
    return ordered


def _channel(default: int | None, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value == "" or value is None:
            return default
        try:
            return _number(value)
        except ValueError as error:
            raise ValueError(f"a number of channels is wanted, e.g. {example}") from error

    return check


def _phasecenter(value: Any) -> tuple[Any, ...] | Literal[""]:
    if isinstance(value, str):
        return parse_direction(value) if value.strip() else ""
    if isinstance(value, list | tuple) and len(value) == 3 and value[2] in ("FK5", "ICRS"):
        return tuple(value)
    raise ValueError("a direction is wanted, e.g. 'J2000 12h30m00s +30d00m00s'")


def _restfreq(value: Any) -> float | None:
    values = [] if value is None or value == "" else _as_list(value)
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("one rest frequency is wanted, e.g. '230.538GHz'")
    frequency = parse_quantity(values[0], FREQUENCY)
    if not frequency > 0:
        raise ValueError(f"{values[0]!r} is not positive; write e.g. '230.538GHz'")
    return frequency


def good_image_size(smallest: int) -> int:
    """Smallest even size, not below `smallest` nor 32, with no prime factor above 7: quick to Fourier transform."""
    size = max(SMALLEST_IMAGE, smallest + smallest % 2)
    while not _is_smooth(size):
        size += 2
    return size


def _is_smooth(size: int) -> bool:
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    return size == 1


def _imsize(value: Any) -> tuple[int, int]:
    sizes = []
    for item in _pair(_as_list(value), "nx and ny"):
        size = _number(item)
        if not isinstance(size, int | float) or size != size // 1:
            raise ValueError("a whole number of pixels is wanted, e.g. 512 or [512, 256]")
        if size > LARGEST_IMAGE:
            raise ValueError(f"{size} is too large; the largest size is {LARGEST_IMAGE}")
        if size < SMALLEST_IMAGE or size % 2:
            raise ValueError(
                f"{size} must be even and at least {SMALLEST_IMAGE}; the next good size is {good_image_size(int(size))}"
            )
        sizes.append(int(size))
    return sizes[0], sizes[1]


def _cell(value: Any) -> tuple[float, float]:
    cells = []
    for item in _pair(_as_list(value), "x and y"):
        cell = parse_quantity(item, ANGLE, unit_required=True)
        if not cell > 0:
            raise ValueError(f"{item!r} is not positive; write e.g. '0.2arcsec'")
        cells.append(cell)
    return cells[0], cells[1]


def _uvtaper(value: Any) -> tuple[float, float, float] | tuple[()]:
    values = [] if value is None else [item for item in _as_list(value) if item != ""]
    if len(values) > 3:
        raise ValueError("one to three values are wanted: bmaj, bmin, bpa, e.g. ['5klambda', '3klambda', '45deg']")
    if not values:
        return ()
    along = parse_taper_width(values[0])
    across = parse_taper_width(values[1]) if len(values) > 1 else along
    return along, across, _position_angle(values[2]) if len(values) > 2 else 0.0


def _position_angle(value: Any) -> float:
    """Degrees; a bare number is in degrees."""
    number = plain_number(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return parse_quantity(number * 3600.0, ANGLE) / 3600.0
    return parse_quantity(value, ANGLE, unit_required=True) / 3600.0


def _threshold(value: Any) -> float:
    threshold = parse_quantity(value, FLUX_DENSITY)
    if threshold < 0:
        raise ValueError("a threshold cannot be negative; write e.g. '3mJy', or 0 for none")
    return threshold


def _restoringbeam(value: Any) -> tuple[float, float, float] | Literal["", "common"]:
    values = [] if value is None else [item for item in _as_list(value) if item != ""]
    if not values:
        return ""
    if values == ["common"]:
        return "common"
    example = "write '', 'common', '1arcsec' or ['1arcsec', '0.8arcsec', '30deg']"
    if len(values) not in (1, 3):
        raise ValueError(f"{len(values)} values given; {example}")
    try:
        bmaj = parse_quantity(values[0], ANGLE, unit_required=True)
        bmin = parse_quantity(values[1], ANGLE, unit_required=True) if len(values) == 3 else bmaj
        bpa = _position_angle(values[2]) if len(values) == 3 else 0.0
    except ValueError as error:
        raise ValueError(f"{str(error).partition(';')[0]}; {example}") from error
    if not bmaj >= bmin > 0:
        raise ValueError(f"the major axis must not be smaller than the minor one, nor either 0; {example}")
    return bmaj, bmin, bpa


def _chunksize(value: Any) -> Any:
    if value == "auto":
        return value
    wanted = "write 'auto', a number of channels from 1, or -1 for one chunk per worker"
    try:
        size = _number(value)
    except ValueError as error:
        raise ValueError(wanted) from error
    if not isinstance(size, int) or size < -1 or size == 0:
        raise ValueError(wanted)
    return size


def _workers(value: Any) -> Any:
    return None if value == "" else value if value is None else _number(value)


def _memory(value: Any) -> int | None:
    if value is None or value == "":
        return None
    size = int(parse_quantity(value, MEMORY))
    if size < 1:
        raise ValueError(f"{value!r} is not positive; write e.g. '8GB'")
    return size


def _products(value: Any) -> tuple[str, ...]:
    named = [item for item in _as_list(value) if item != ""]
    for name in named:
        if name not in PRODUCTS:
            raise ValueError(f"{name!r} is none of {', '.join(PRODUCTS)}")
    if not named:
        raise ValueError(f"at least one of {', '.join(PRODUCTS)} is wanted")
    return tuple(name for name in PRODUCTS if name in named)


Integer = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, AfterValidator(str.strip)]

_SAME = "same"  # tclean has the parameter with this default


def _parameter(
    default: Any, group: str, accepts: str, description: str, *, tclean: str | None = _SAME, **limits: Any
) -> Any:
    """One field of the schema; `tclean` is its default there if that differs, None if tclean has no such thing."""
    extra = {"group": group, "accepts": accepts, "tclean": tclean}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Parameters(BaseModel):
    """Every parameter of the main job, checked and in base units. Make it with `make_parameters`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    vis: Annotated[tuple[str, ...], BeforeValidator(_paths)] = _parameter(
        ...,
        "Data",
        "path or list of paths",
        "The MeasurementSet, or several to be imaged together.",
    )
    imagename: Annotated[str, BeforeValidator(_imagename)] = _parameter(
        ...,
        "Output",
        "path without ending",
        "Beginning of the products' names: OUT gives OUT.image.fits and so on. A missing folder is made.",
    )
    field: Annotated[str, BeforeValidator(_field_name)] = _parameter(
        "",
        "Data",
        "number or name",
        "The field to image; empty for the only one there is.",
    )
    spw: Annotated[str, BeforeValidator(_spw)] = _parameter(
        "",
        "Data",
        "'0', '0,2', '0~3', '*', '0:5~20;30~40,1'",
        "Spectral windows and, after a colon, their channels, counted from 0 with both ends included; empty for all.",
    )
    datacolumn: Literal["auto", "data", "corrected", "model"] = _parameter(
        "auto",
        "Data",
        "auto, data, corrected, model",
        "Which visibilities to image: auto takes CORRECTED_DATA where there is one, otherwise DATA.",
        tclean="corrected",
    )
    stokes: Annotated[str, BeforeValidator(_stokes)] = _parameter(
        "I",
        "Image",
        "I, pseudoI, or several of I, Q, U, V in this order",
        "Stokes parameters to image. I needs both parallel hands of a sample; pseudoI takes whichever are not flagged.",
    )
    specmode: Literal["cube"] = _parameter(
        "cube",
        "Spectral axis",
        "cube",
        "A cube is the only form there is.",
        tclean="mfs",
    )
    start: Annotated[int | None, BeforeValidator(_channel(None, "0 or 20"))] = _parameter(
        None,
        "Spectral axis",
        "channel from 0",
        "First of the selected channels that goes into the cube; by default the first, or the last if width is negative.",
        ge=0,
    )
    width: Annotated[int, BeforeValidator(_channel(1, "1, 4 or -1"))] = _parameter(
        1,
        "Spectral axis",
        "channels, not 0",
        "How many selected channels are averaged into each channel of the cube; negative runs down from start.",
    )
    nchan: Integer = _parameter(
        -1,
        "Spectral axis",
        "number from 1, or -1",
        "Number of channels of the cube; -1 for all from start on.",
        ge=-1,
    )
    phasecenter: Annotated[tuple[float, float, Literal["FK5", "ICRS"]] | Literal[""], BeforeValidator(_phasecenter)] = (
        _parameter(
            "",
            "Image",
            "'J2000 12h30m00s +30d00m00s', 'ICRS 187.5deg 30deg'",
            "Centre of the image, in base form right ascension and declination in radians and FK5 (J2000) or ICRS; "
            "empty for the field's own. Colons count hours in right ascension and degrees in declination.",
        )
    )
    outframe: Literal[""] = _parameter(
        "",
        "Spectral axis",
        "empty",
        "Frequency frame of the cube: always the data's own frame.",
        tclean="LSRK",
    )
    restfreq: Annotated[float | None, BeforeValidator(_restfreq)] = _parameter(
        None,
        "Spectral axis",
        "frequency (Hz)",
        "Rest frequency written to the cubes; by default the one in the MeasurementSet, if there is one.",
    )
    imsize: Annotated[tuple[int, int], BeforeValidator(_imsize)] = _parameter(
        100,
        "Image",
        f"even, {SMALLEST_IMAGE} to {LARGEST_IMAGE}; or [nx, ny]",
        "Size of the image in pixels. Sizes without prime factors above 7 are quickest.",
    )
    cell: Annotated[tuple[float, float], BeforeValidator(_cell)] = _parameter(
        "1arcsec",
        "Image",
        "angle (arcsec); or [x, y]",
        "Size of a pixel. Text needs a unit; a bare Python number is in arcsec.",
    )
    gridder: Literal["standard", "wgridder", "auto"] = _parameter(
        "standard",
        "Gridding",
        "standard, wgridder, auto",
        "standard neglects the w term as tclean's does, wgridder takes it into account, "
        "auto does where neglecting it would matter.",
    )
    epsilon: Real = _parameter(
        1e-4,
        "Gridding",
        "1e-10 to 1e-2",
        "Relative accuracy of gridding and degridding.",
        tclean=None,
        ge=1e-10,
        le=1e-2,
    )
    weighting: Literal["natural", "uniform", "briggs"] = _parameter(
        "natural",
        "Weighting",
        "natural, uniform, briggs",
        "Imaging weights, always made for each channel by itself (tclean's perchanweightdensity=True).",
    )
    robust: Real = _parameter(
        0.5,
        "Weighting",
        "-2 to 2",
        "Briggs's robustness: -2 is close to uniform weights, 2 close to natural ones. Used with weighting='briggs'.",
        ge=-2,
        le=2,
    )
    uvtaper: Annotated[tuple[float, float, float] | tuple[()], BeforeValidator(_uvtaper)] = _parameter(
        (),
        "Weighting",
        "[bmaj, bmin, bpa], '5klambda' or '2arcsec'",
        "Gaussian taper of the weights: full widths on the sky as angles, or half widths at half maximum in the "
        "aperture in wavelengths, and position angle. In base form half widths in wavelengths along and across the "
        "position angle, and the position angle in degrees.",
    )
    deconvolver: Literal["hogbom"] = _parameter(
        "hogbom",
        "Deconvolution",
        "hogbom",
        "Algorithm of the minor cycle.",
    )
    minorcycle: Literal["activeset", "textbook"] = _parameter(
        "activeset",
        "Deconvolution",
        "activeset, textbook",
        "Form of the minor cycle: activeset updates only the pixels that may become peaks, textbook the whole image.",
        tclean=None,
    )
    majorcycle: Literal["auto", "visibility", "image"] = _parameter(
        "auto",
        "Deconvolution",
        "auto, visibility, image",
        "How the residual is recomputed: from the visibilities, or in image space (exact where the w term is "
        "neglected); auto takes the cheaper one that is exact.",
        tclean=None,
    )
    niter: Integer = _parameter(
        0,
        "Deconvolution",
        "number from 0",
        "Most minor-cycle iterations, PER CHANNEL (tclean counts over all channels); 0 for the dirty cube.",
        ge=0,
    )
    gain: Real = _parameter(
        0.1,
        "Deconvolution",
        "above 0, to 1",
        "Share of the peak that one iteration takes away.",
        gt=0,
        le=1,
    )
    threshold: Annotated[float, BeforeValidator(_threshold)] = _parameter(
        0.0,
        "Stopping",
        "flux density (Jy)",
        "A channel is finished when its peak residual is below this, in Jy/beam.",
    )
    nsigma: Real = _parameter(
        0.0,
        "Stopping",
        "number from 0",
        "A channel is finished when its peak residual is below this many times its noise (1.4826 MAD of the residual).",
        ge=0,
    )
    cyclefactor: Real = _parameter(
        1.0,
        "Stopping",
        "above 0",
        "A minor cycle stops at cyclefactor times the largest sidelobe of the PSF times the peak it began with.",
        gt=0,
    )
    cycleniter: Integer = _parameter(
        -1,
        "Stopping",
        "number from 1, or -1",
        "Most iterations in one minor cycle; -1 for no such limit.",
        ge=-1,
    )
    minpsffraction: Real = _parameter(
        0.05,
        "Stopping",
        "0 to 1",
        "A minor cycle always stops at this fraction of the peak it began with.",
        ge=0,
        le=1,
    )
    maxpsffraction: Real = _parameter(
        0.8,
        "Stopping",
        "0 to 1",
        "A minor cycle always goes down at least to this fraction of the peak it began with.",
        ge=0,
        le=1,
    )
    nmajor: Integer = _parameter(
        -1,
        "Stopping",
        "number from 0, or -1",
        "Most major cycles, per channel; -1 for no such limit.",
        ge=-1,
    )
    usemask: Literal["user"] = _parameter(
        "user",
        "Deconvolution",
        "user",
        "Where the clean mask comes from: always from the user.",
    )
    mask: Annotated[str, BeforeValidator(_path)] = _parameter(
        "",
        "Deconvolution",
        "path of a FITS image",
        "Clean mask, one plane for all channels or one plane for each; components are sought where it is not 0. "
        "Empty for the whole image.",
    )
    restoringbeam: Annotated[
        tuple[float, float, float] | Literal["", "common"],
        BeforeValidator(_restoringbeam),
    ] = _parameter(
        "",
        "Output",
        "'', 'common', '1arcsec', ['1arcsec', '0.8arcsec', '30deg']",
        "Beam of the restored image: empty for each channel's own, common for the smallest that fits all, or the given "
        "one. In base form the full widths at half maximum in arcsec and the position angle in degrees.",
    )
    chunksize: Annotated[int | Literal["auto"], BeforeValidator(_chunksize)] = _parameter(
        "auto",
        "Resources",
        "auto, number from 1, or -1",
        "How many channels are worked on together; -1 for one chunk per worker. The cube does not depend on it.",
        tclean=None,
    )
    device: Literal["auto", "cpu", "cuda"] = _parameter(
        "auto",
        "Resources",
        "auto, cpu, cuda",
        "Where the imaging runs; auto takes a usable GPU and otherwise the CPU cores.",
        tclean=None,
    )
    workers: Annotated[int | None, BeforeValidator(_workers)] = _parameter(
        None,
        "Resources",
        "number from 1",
        "Number of processes; by default the number of cores, or of GPUs.",
        tclean=None,
        ge=1,
    )
    memory: Annotated[int | None, BeforeValidator(_memory)] = _parameter(
        None,
        "Resources",
        "memory size (bytes)",
        "Host memory the run may use, e.g. '8GB'; by default 80 % of what is available.",
        tclean=None,
    )
    scheduler: Text = _parameter(
        "",
        "Resources",
        "address",
        "Address of a running Dask scheduler, e.g. tcp://host:8786; empty for workers of our own.",
        tclean=None,
    )
    scratch: Annotated[str, BeforeValidator(_path)] = _parameter(
        "",
        "Resources",
        "path of a folder",
        "Where the visibilities are kept while the run lasts; empty for beside imagename.",
        tclean=None,
    )
    overwrite: bool = _parameter(
        False,
        "Output",
        "yes or no",
        "Replace products that are already there.",
        tclean=None,
    )
    resume: bool = _parameter(
        False,
        "Output",
        "yes or no",
        "Finish a run that was cut off, with the same bits; channels that are safe on disk are not made again.",
        tclean=None,
    )
    products: Annotated[tuple[str, ...], BeforeValidator(_products)] = _parameter(
        ("image", "residual", "model"),
        "Output",
        "several of " + ", ".join(PRODUCTS),
        "Which cubes to write.",
        tclean=None,
    )
    quiet: bool = _parameter(
        False,
        "Output",
        "yes or no",
        "Show no progress.",
        tclean=None,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Parameters:
        if self.resume and self.overwrite:
            raise ValueError("resume=True goes on with what is there and overwrite=True replaces it; give one of them")
        if self.width == 0:
            raise ValueError("width=0: channels must be averaged by 1, 2 ... or, falling, -1, -2 ...")
        if self.nchan == 0:
            raise ValueError("nchan=0: give the number of channels from 1, or -1 for all")
        if self.cycleniter == 0:
            raise ValueError("cycleniter=0: give the number of iterations from 1, or -1 for no limit")
        if self.minpsffraction > self.maxpsffraction:
            raise ValueError(
                f"minpsffraction={self.minpsffraction:g} is above maxpsffraction={self.maxpsffraction:g}; lower it"
            )
        return self

    def as_json_dict(self) -> dict[str, Any]:
        """The parameters in base units as plain JSON types; `make_parameters` of it gives the same parameters back."""
        return self.model_dump(mode="json")


_ALWAYS_PER_CHANNEL = "channels always have their own weights; leave it out"
_NO_MFS = "gpucube makes cubes only; leave it out"
_NO_MULTISCALE = "the deconvolver is 'hogbom'; leave it out"
_NO_MOSAIC = "gpucube images one field without primary-beam terms; leave it out"
_NO_SELECTION = "select beforehand, e.g. with CASA's split; leave it out"
_NO_AUTOMASK = "give a FITS mask with mask=, or limit the depth with nsigma or threshold"
_NO_RESTART = "every run starts afresh; leave it out"

TCLEAN_ONLY: dict[str, str] = {
    "parallel": "channels are always imaged in parallel; say how many processes with workers=",
    "interactive": "give a FITS mask with mask=",
    "savemodel": "the model is written as a FITS cube and never to the MeasurementSet; leave it out",
    "pbcor": "divide the image by a primary beam afterwards; leave it out",
    "pblimit": "images are not cut at a primary-beam level; give a FITS mask with mask= instead",
    "interpolation": "channels are taken or averaged as they are (start, width, nchan); leave it out",
    "veltype": "start and width count channels; leave it out",
    "perchanweightdensity": _ALWAYS_PER_CHANNEL,
    "projection": "the projection is always SIN; leave it out",
    "startmodel": "every run starts from an empty model; leave it out",
    "restoration": "leave 'image' out of products instead",
    "fullsummary": "the summary is always full; leave it out",
    "verbose": "see quiet; leave it out",
    "noise": "it belongs to weighting='briggsabs'; use weighting='briggs' with robust",
    "npixels": "use weighting='briggs' with robust",
    "outlierfile": "image the outlier fields by a run each",
    "psfcutoff": "the beam is fitted without such a setting; leave it out",
    **dict.fromkeys(("reffreq", "nterms"), _NO_MFS),
    **dict.fromkeys(("scales", "smallscalebias", "fusedthreshold", "largestscale"), _NO_MULTISCALE),
    **dict.fromkeys(
        ("facets", "psfphasecenter", "wprojplanes", "vptable", "mosweight", "aterm", "psterm", "wbawp", "conjbeams")
        + ("cfcache", "usepointing", "computepastep", "rotatepastep", "pointingoffsetsigdev", "normtype"),
        _NO_MOSAIC,
    ),
    **dict.fromkeys(
        ("selectdata", "timerange", "uvrange", "antenna", "scan", "observation", "intent"),
        _NO_SELECTION,
    ),
    **dict.fromkeys(
        ("pbmask", "sidelobethreshold", "noisethreshold", "lownoisethreshold", "negativethreshold", "smoothfactor")
        + ("minbeamfrac", "cutthreshold", "growiterations", "dogrowprune", "minpercentchange", "fastnoise"),
        _NO_AUTOMASK,
    ),
    **dict.fromkeys(("restart", "calcres", "calcpsf"), _NO_RESTART),
}
"""tclean's parameters that gpucube does not have, and what to do instead."""

_TCLEAN_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "specmode": (("mfs", "mtmfs", "mvc", "cubedata", "cubesource"), "use specmode='cube'"),
    "deconvolver": (
        ("multiscale", "mtmfs", "clark", "clarkstokes", "asp", "mem"),
        "use deconvolver='hogbom'",
    ),
    "gridder": (
        ("mosaic", "awproject", "awp2", "awphpg", "widefield", "wproject", "facet", "gridft", "wprojectft"),
        "use gridder='wgridder' for wide fields, otherwise 'standard'",
    ),
    "weighting": (
        ("briggsabs", "briggsbwtaper", "superuniform", "radial"),
        "use weighting='natural', 'uniform' or 'briggs'",
    ),
    "usemask": (("auto-multithresh", "pb"), _NO_AUTOMASK),
    "outframe": (
        ("LSRK", "LSRD", "BARY", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB", "REST"),
        "the cube keeps the data's own frame; leave it out",
    ),
}
"""Values that tclean takes and gpucube does not, and what to do instead."""

Model = TypeVar("Model", bound=BaseModel)


def make_parameters(**values: Any) -> Parameters:
    """Check the parameters of the main job.

    Parameters
    ----------
    **values
        By name, as the user wrote them: see `Parameters`. `vis` and `imagename` are required.

    Returns
    -------
    Parameters
        Frozen and in base units.

    Raises
    ------
    GpucubeError
        One line: an unknown parameter with the nearest right name; one of tclean's that does not exist here with what
        to do instead; or a bad value with what is accepted.
    """
    for name, value in values.items():
        if name in TCLEAN_ONLY:
            raise GpucubeError(f"tclean's parameter {name!r} is not available: {TCLEAN_ONLY[name]}")
        foreign, advice = _TCLEAN_VALUES.get(name, ((), ""))
        if isinstance(value, str) and value.lower() in (item.lower() for item in foreign):
            raise GpucubeError(f"{name}={value!r} is not available: {advice}")
    return validated(Parameters, values)


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Make a pydantic model of what a user wrote, with `GpucubeError` of one line for the first mistake.

    Parameters
    ----------
    model : type
        A pydantic model whose fields have ``accepts`` in their ``json_schema_extra``, or none.
    values : mapping
        Field name -> what the user wrote.

    Returns
    -------
    instance of model
    """
    for name in values:
        if name not in model.model_fields:
            raise GpucubeError(f"unknown parameter {name!r}{suggestion(str(name), model.model_fields)}")
    try:
        return model(**values)
    except ValidationError as error:
        raise GpucubeError(_one_line(model, values, error)) from None


def suggestion(name: str, right: Iterable[str]) -> str:
    """``": did you mean 'imsize'?"``, or nothing if no right name is near."""
    nearest = difflib.get_close_matches(name.lower(), list(right), n=1, cutoff=0.6)
    return f": did you mean {nearest[0]!r}?" if nearest else ""


def _one_line(model: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    own_message = str(first["ctx"]["error"]) if first["type"] == "value_error" else ""
    if not first["loc"]:
        return own_message or first["msg"]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{name} is missing: {model.model_fields[name].description}"
    extra = model.model_fields[name].json_schema_extra
    accepts = extra.get("accepts") if isinstance(extra, dict) else None
    message = own_message or first["msg"][0].lower() + first["msg"][1:]
    if accepts and first["type"] not in ("value_error", "literal_error"):
        message += f" ({accepts})"
    value = values.get(name)
    given = str(value) if hasattr(value, "to_value") else repr(value)
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{name}={given}: {message}".replace("\n", " ")


def reference_page() -> str:
    """The reference page of the documentation, in Markdown."""
    lines = [
        "# Parameters",
        "",
        "Made from the schema by `python -m gpucube.parameters > docs/parameters.md`; do not edit.",
        "",
        "The same names serve `gpucube.image_cube(...)`, the command line (`--name value`; lists with commas, as in",
        "`--imsize 512,256`) and the YAML file given with `--config`. A bare number is in the unit in brackets. The",
        "last column gives tclean's default where it differs, and a dash for parameters that tclean does not have.",
    ]
    groups: dict[str, list[str]] = {}
    for name, field in Parameters.model_fields.items():
        extra = field.json_schema_extra
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        tclean = {None: "—", _SAME: ""}.get(extra["tclean"], f"`'{extra['tclean']}'`")
        row = f"| `{name}` | {default} | {extra['accepts']} | {field.description} | {tclean} |"
        groups.setdefault(extra["group"], []).append(row)
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", "| name | default | accepts | meaning | tclean |", "|---|---|---|---|---|"]
        lines += rows
    return "\n".join(lines) + "\n"


def _plain(default: Any) -> str:
    return repr(list(default)) if isinstance(default, tuple) else repr(default)


if __name__ == "__main__":
    print(reference_page(), end="")
