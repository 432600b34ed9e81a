"""The one schema of the main job: every parameter with its name, default, check, unit and description.

In: Python values, text from the command line, or values from a YAML file. Out: `Parameters`, frozen, in base units,
which everything behind the door trusts. Names and defaults are tclean's wherever tclean has the concept.

The same model makes the command line's options (`gpucube.cli`) and the reference page:
``python -m gpucube.schema.reference > docs/parameters.md``. Every mistake becomes one line (`GpucubeError`), an unknown name
with the nearest right one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gpucube.errors import GpucubeError
from gpucube.schema.checks import (
    LARGEST_IMAGE,
    PRODUCTS,
    SMALLEST_IMAGE,
    _cell,
    _channel,
    _chunksize,
    _field_name,
    _imagename,
    _imsize,
    _memory,
    _number,
    _path,
    _paths,
    _phasecenter,
    _products,
    _restfreq,
    _restoringbeam,
    _spw,
    _stokes,
    _threshold,
    _uvtaper,
    _workers,
)
from gpucube.schema.tclean import _TCLEAN_VALUES, TCLEAN_ONLY
from gpucube.schema.validation import validated

# Validators: each takes what the user wrote and gives the base form, which it also accepts (parameters round-trip).


Integer = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, AfterValidator(str.strip)]

SAME = "same"  # tclean has the parameter with this default


def _parameter(
    default: Any, group: str, accepts: str, description: str, *, tclean: str | None = SAME, **limits: Any
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
