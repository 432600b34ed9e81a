"""The one schema of the main job: every parameter with its default, type and description.

In: Python values, text from the command line, or values from a YAML file. Out: `Parameters`, frozen and in base units,
which the rest of gpucube trusts. Names and defaults are tclean's wherever tclean has the concept.

The command line's options (`gpucube.cli`), the signature of `gpucube.image_cube` and the reference page all come from
this model (docs/reference.py). A mistake becomes one line (`GpucubeError`). If a name is unknown, the message suggests the
nearest known one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from gpucube.constants import ARCSEC_PER_RADIAN
from gpucube.schema import types
from gpucube.schema.tclean import ABSENT_PARAMETERS, OLD_NAMES, OTHER_NAMES, from_tclean
from gpucube.schema.validation import Choice, check_names, validated
from gpucube.text import flux_text

if TYPE_CHECKING:
    from gpucube.sky.beam import RestoringBeam
    from gpucube.sky.directions import Direction

GROUPS = (
    "Data",
    "Image",
    "Spectral axis",
    "Gridding",
    "Weighting",
    "Deconvolution",
    "Automatic masks",
    "Stopping",
    "Output",
    "Resources",
)
"""Headings under which help and the reference page list the parameters."""


def _flux(janskys: float) -> str:
    """A flux density as users write it: ``"'3mJy'"``."""
    return repr(flux_text(janskys).replace(" ", ""))


def _parameter(
    default: Any, group: str, *, usual: bool = False, tclean: str | bool | None = "same", **limits: float
) -> Any:
    """Make a field of the schema. Users write `default` like this. `gpucube.schema.validation.About` explains the rest."""
    extra: dict[str, Any] = {"group": group, "usual": usual, "tclean": tclean}
    return Field(default, json_schema_extra=extra, **limits)  # type: ignore[call-overload]  # ge, gt, le


class Parameters(BaseModel):
    """Every parameter of the main job, checked and in base units. Make it with `make_parameters`.

    The text below each parameter is its description in the help, in the docstring of `gpucube.image_cube` and on the
    reference page. The products list the parameters in this order in their HISTORY.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    vis: types.Paths = _parameter(..., "Data", usual=True)
    """The MeasurementSet to image, or several to image together."""

    imagename: types.Imagename = _parameter(..., "Output", usual=True)
    """Path with which the names of all products begin: OUT gives OUT.image.fits and so on. A missing folder is created."""

    field: types.FieldName = _parameter("", "Data")
    """The field to image, in CASA's syntax. Several entries of the table FIELD are one field if they have the same
    direction. Empty for all fields that have data, which must then be one field. A list has one selection for each
    MeasurementSet."""

    spw: types.Spw = _parameter("", "Data")
    """Spectral windows and, after a colon, their channels, in CASA's syntax. Numbers count from 0 and ranges include both
    ends. Empty for everything. A list has one selection for each MeasurementSet."""

    timerange: types.Timerange = _parameter("", "Data")
    """Times to image, in CASA's syntax, UTC. Empty for all. A list has one selection for each MeasurementSet."""

    uvrange: types.Uvrange = _parameter("", "Data")
    """Distances in the uv plane to image, in CASA's syntax: in metres, or in wavelengths at the reference frequency of
    the window. Empty for all. A list has one selection for each MeasurementSet."""

    antenna: types.Antenna = _parameter("", "Data")
    """Antennas and baselines to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet."""

    scan: types.Scan = _parameter("", "Data")
    """Scans to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet."""

    observation: types.Scan = _parameter("", "Data")
    """Observations (OBSERVATION_ID) to image, in CASA's syntax. Empty for all. A list has one selection for each
    MeasurementSet."""

    intent: types.Intent = _parameter("", "Data")
    """Intents to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet."""

    datacolumn: Annotated[Literal["auto", "data", "corrected", "model"], Choice()] = _parameter(
        "auto", "Data", tclean="corrected"
    )
    """Which visibilities to image. 'auto' takes CORRECTED_DATA if the MeasurementSet has it, otherwise DATA."""

    contsubspw: types.Contsubspw = _parameter("", "Data", tclean=None)
    """Line-free channels. The continuum of every row and correlation is fitted to them and subtracted. They are written as
    in `spw`, or as velocities with a unit in the frame of the cube. Empty for no subtraction. A list has one selection for
    each MeasurementSet."""

    contsuborder: types.Integer = _parameter(0, "Data", tclean=None, ge=0, le=4)
    """Order of the polynomial in frequency that is fitted to the channels of contsubspw: 0 is a constant."""

    stokes: types.Stokes = _parameter("I", "Image")
    """Stokes parameters to image. 'I' uses a sample only if neither parallel hand is flagged; 'pseudoI' uses whichever hand
    is not flagged. 'RR', 'LL', 'XX' and 'YY' are single hands."""

    specmode: Annotated[Literal["cube", "cubedata", "cubesource"], Choice()] = _parameter(
        "cube", "Spectral axis", tclean="mfs"
    )
    """'cube' makes a cube in the frame outframe, 'cubedata' one in the frame of the data. 'cubesource' makes one in the rest
    frame of an object with an ephemeris: it follows the radial velocity of the object, and its position as
    phasecenter='TRACKFIELD' does."""

    outframe: Annotated[
        Literal["", "LSRK", "LSRD", "BARY", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB", "REST"], Choice(empty="")
    ] = _parameter("", "Spectral axis", tclean="LSRK")
    """Frame of the cube's frequencies. Every row is converted with the Doppler factor of its time and field. Empty for the
    frame of the data, or for LSRK if start is a velocity and the data are in TOPO or GEO. REST is only for data that are
    already in this frame."""

    start: types.Start = _parameter(None, "Spectral axis")
    """Centre of the cube's first channel. A number without a unit is the number of a channel in its spectral window. By
    default the cube begins where the selected data begin."""

    width: types.Width = _parameter(1, "Spectral axis")
    """Width of the cube's channels; a number without a unit counts channels of the data. With a negative width, channel
    number or frequency falls along the axis. With a positive width in velocity, velocity rises and so frequency falls."""

    nchan: types.FromOneOrAll = _parameter(-1, "Spectral axis")
    """Number of channels of the cube. -1 for as many as the data fill."""

    veltype: Annotated[Literal["radio", "optical"], Choice(empty="radio")] = _parameter("radio", "Spectral axis")
    """Convention of the velocities in `start` and `width`, and of those in plan, table, summary and report."""

    interpolation: Annotated[Literal["nearest", "linear", "cubic"], Choice(empty="linear")] = _parameter(
        "linear", "Spectral axis"
    )
    """How visibilities are interpolated in frequency if the channels of the cube are not those of the data."""

    phasecenter: types.Phasecenter = _parameter("", "Image")
    """Centre of the image, or the number of a field whose phase centre it is. Empty for that of the imaged field. Colons count
    hours in right ascension and degrees in declination. 'TRACKFIELD' follows a field that moves."""

    restfreq: types.Restfreq = _parameter(None, "Spectral axis")
    """Rest frequency of the line, which velocities refer to. By default the one in the MeasurementSet, if there is one. The
    first of a list counts."""

    imsize: types.Imsize = _parameter(100, "Image", usual=True)
    """Size of the image in pixels; two numbers are nx and ny. Sizes without prime factors above 7 are quickest."""

    cell: types.Cell = _parameter("1arcsec", "Image", usual=True)
    """Size of a pixel; two angles are the sizes along x and y. Text needs a unit."""

    gridder: Annotated[Literal["standard", "wgridder", "auto"], Choice()] = _parameter(
        "auto", "Gridding", tclean="standard"
    )
    """'auto' corrects for the w term if neglecting it would matter. 'standard' always neglects it, as in tclean. 'wgridder'
    corrects for it."""

    epsilon: types.Real = _parameter(1e-4, "Gridding", tclean=None, ge=1e-10, le=1e-2)
    """Relative accuracy of gridding and degridding."""

    weighting: Annotated[
        Literal["natural", "uniform", "briggs", "briggsabs", "briggsbwtaper", "superuniform", "radial"], Choice()
    ] = _parameter("natural", "Weighting", usual=True)
    """Imaging weights. 'briggsbwtaper' needs perchanweightdensity=True. 'superuniform' always uses one density for all
    channels, as in tclean."""

    perchanweightdensity: bool = _parameter(True, "Weighting")
    """True computes the weights of every channel from its own density of samples. False uses one density of all channels,
    so that their beams are more similar."""

    robust: types.Real = _parameter(0.5, "Weighting", usual=True, ge=-2, le=2)
    """Robustness of the Briggs weightings: -2 is close to uniform weights, 2 to natural weights."""

    noise: types.Noise = _parameter(1.0, "Weighting")
    """Noise of a visibility, for weighting='briggsabs'."""

    npixels: types.Integer = _parameter(0, "Weighting", ge=0)
    """A square that extends this many cells of the uv plane to every side. weighting='superuniform' sums the density over it, and
    0 means 3. 'uniform', 'briggs' and 'briggsabs' average the density over it. If they use one density for all channels, npixels
    is the size in pixels of the image whose uv cells the density has."""

    uvtaper: types.Uvtaper = _parameter((), "Weighting")
    """Gaussian taper of the weights. Angles are full widths at half maximum on the sky. Lengths in wavelengths are half
    widths at half maximum in the aperture. bpa is the position angle."""

    deconvolver: Annotated[Literal["hogbom", "multiscale"], Choice()] = _parameter("hogbom", "Deconvolution")
    """Algorithm of the minor cycle: points ('hogbom'), or components of several scales for extended emission
    ('multiscale')."""

    scales: types.Scales = _parameter((), "Deconvolution")
    """Sizes of the components of deconvolver='multiscale', in pixels; 0 is a point. Empty for a point, the beam, and further
    scales that are each three times the previous one, up to a sixth of the image."""

    smallscalebias: Annotated[float, Field(ge=-1, le=1)] = _parameter(0.0, "Deconvolution")
    """For deconvolver='multiscale': components of the largest scale count 1 - smallscalebias times as much as points. For
    other scales the reduction is in proportion to their size. A value above 0 prefers small scales."""

    minorcycle: Annotated[Literal["activeset", "textbook"], Choice()] = _parameter(
        "activeset", "Deconvolution", tclean=None
    )
    """'activeset' updates only those pixels of the residual that may become peaks, 'textbook' updates the whole image."""

    majorcycle: Annotated[Literal["auto", "visibility", "image"], Choice()] = _parameter(
        "auto", "Deconvolution", tclean=None
    )
    """How the residual is recomputed: from the visibilities, or in the image, which is exact if the w term is neglected.
    'auto' takes the cheaper way that is exact."""

    niter: types.Integer = _parameter(0, "Deconvolution", usual=True, ge=0)
    """Largest number of minor-cycle iterations PER CHANNEL (tclean counts over all channels). 0 makes the dirty cube."""

    gain: types.Real = _parameter(0.1, "Deconvolution", gt=0, le=1)
    """Fraction of the peak that one iteration subtracts."""

    threshold: types.Threshold = _parameter(0.0, "Stopping", usual=True)
    """A channel is finished when its peak residual is below this."""

    nsigma: types.Real = _parameter(0.0, "Stopping", usual=True, ge=0)
    """A channel is finished when its peak residual is below this many times its noise (1.4826 MAD of the residual)."""

    cyclefactor: types.Real = _parameter(1.0, "Stopping", gt=0)
    """A minor cycle stops at cyclefactor times the largest sidelobe of the PSF times the peak it began with."""

    cycleniter: types.FromOneOrAll = _parameter(-1, "Stopping")
    """Largest number of iterations in one minor cycle. -1 for no limit."""

    minpsffraction: types.Real = _parameter(0.05, "Stopping", ge=0, le=1)
    """A minor cycle never goes below this fraction of the peak it began with."""

    maxpsffraction: types.Real = _parameter(0.8, "Stopping", ge=0, le=1)
    """A minor cycle always goes down at least to this fraction of the peak it began with."""

    nmajor: types.FromZeroOrAll = _parameter(-1, "Stopping")
    """Largest number of major cycles per channel. -1 for no limit."""

    usemask: Annotated[Literal["user", "pb", "auto-multithresh"], Choice()] = _parameter("user", "Deconvolution")
    """Where the clean mask comes from. 'user' takes mask. 'pb' makes it from the primary beam (pbmask), inside mask if there
    is one. 'auto-multithresh' makes it from the residual, again for every cycle of every channel, beginning with mask if
    there is one (Kepley et al. 2020)."""

    mask: types.Mask = _parameter("", "Deconvolution")
    """Clean mask: where components may be found. An image selects its pixels that are not 0, or those that an expression
    such as 'out.image > 0.003' selects; an image of one plane applies to all channels, and one with another pixel grid is
    regridded. Numbers are pixels: [x0, y0, x1, y1] of a box, [x, y, r] of a circle. Several masks are combined. Empty for the
    whole image."""

    startmodel: types.ImageFile = _parameter("", "Deconvolution")
    """Model in Jy/pixel to start from, such as the model of an earlier run or of tclean. It is regridded to the pixels of the
    cube, and its channels are found by frequency. Empty for none."""

    restart: bool = _parameter(False, "Deconvolution", tclean=True)
    """Continue from the model of the finished run with this imagename, for example with a lower threshold or another mask.
    The products are replaced. Automatic masks continue to grow from those of that run. Without such a run this has no
    effect."""

    pbmask: types.Real = _parameter(0.0, "Deconvolution", ge=0, le=1)
    """Level of the primary beam above which usemask='pb' allows components. If it is above 0, it also limits the masks of
    usemask='auto-multithresh'."""

    sidelobethreshold: types.Real = _parameter(3.0, "Automatic masks", ge=0)
    """A mask contains pixels above sidelobethreshold times the sidelobe level of the PSF times the peak of the residual."""

    noisethreshold: types.Real = _parameter(5.0, "Automatic masks", ge=0)
    """A mask contains pixels above this many times the noise, if that is higher than the level of sidelobethreshold."""

    lownoisethreshold: types.Real = _parameter(1.5, "Automatic masks", ge=0)
    """Masks grow down to this many times the noise, but not below the level of sidelobethreshold."""

    negativethreshold: types.Real = _parameter(0.0, "Automatic masks", ge=0)
    """Negative features are masked below minus this many times the noise. 0 for none."""

    smoothfactor: types.Real = _parameter(1.0, "Automatic masks", ge=0)
    """Masks are smoothed with the beam, enlarged by this factor."""

    minbeamfrac: types.Real = _parameter(0.3, "Automatic masks")
    """Regions smaller than this many beams are removed. 0 or less keeps all of them."""

    cutthreshold: types.Real = _parameter(0.01, "Automatic masks", ge=0, le=1)
    """Smoothed masks are cut at this fraction of their maximum."""

    growiterations: types.Integer = _parameter(75, "Automatic masks", ge=0)
    """Number of pixels by which a mask may grow in a cycle."""

    dogrowprune: bool = _parameter(True, "Automatic masks")
    """Whether minbeamfrac also applies to the regions after they have grown."""

    minpercentchange: types.Real = _parameter(-1.0, "Automatic masks")
    """The mask of a channel is kept once it has changed by less than this percentage in a cycle that went down to the stop
    level. Below 0 it is never kept."""

    fastnoise: bool = _parameter(True, "Automatic masks")
    """True takes the noise for masks from the whole residual, False from the pixels outside the mask."""

    restoringbeam: types.Restoringbeam = _parameter("", "Output")
    """Beam of the restored image. Empty for each channel's own beam, 'common' for the smallest beam that contains those of
    all channels. Otherwise full widths at half maximum bmaj and bmin, and the position angle bpa."""

    restoration: bool = _parameter(True, "Output")
    """Make the restored image. False leaves out the products image and image.pbcor."""

    calcres: bool = _parameter(True, "Output")
    """Make dirty image and residual. False, which needs niter=0, makes only the PSF. With restart=True it has no effect on a
    run that continues an earlier one."""

    calcpsf: bool = _parameter(True, "Output")
    """Write the PSF if it is among products. False needs niter=0, or restart=True and an earlier run."""

    pbcor: bool = _parameter(False, "Output")
    """Also write the primary beam, OUT.pb.fits, and the image divided by it, OUT.image.pbcor.fits."""

    pblimit: types.Real = _parameter(0.2, "Output", ge=-1, le=1)
    """Level of the primary beam below which the products pb and image.pbcor are blank. Its sign does not matter. Other
    products are not affected (tclean also blanks image and residual if it is positive)."""

    dish_diameter: types.DishDiameter = _parameter(None, "Output", tclean=None)
    """Diameter of the antennas. The primary beam is then that of a dish of this size, for telescopes that gpucube does not
    know. By default the telescope of the MeasurementSet determines the primary beam."""

    chunksize: types.Chunksize = _parameter("auto", "Resources", tclean=None)
    """How many channels are imaged together. -1 for one chunk per worker. The cube does not depend on it."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Choice(gpu="cuda", gpus="cuda", nvidia="cuda")] = _parameter(
        "auto", "Resources", tclean=None
    )
    """Where the imaging runs. 'auto' takes the GPUs if they can be used, otherwise the CPU cores."""

    workers: types.Workers = _parameter(None, "Resources", tclean=None)
    """Number of processes. By default the number of cores, or of GPUs."""

    memory: types.Memory = _parameter(None, "Resources", tclean=None)
    """Host memory that the run may use. By default 80 % of what is available."""

    scheduler: types.Address = _parameter("", "Resources", tclean=None)
    """Address of a running Dask scheduler. Empty for workers on this machine."""

    scratch: types.Folder = _parameter("", "Resources", tclean=None)
    """Folder that holds the visibilities during the run, unless keep_visibilities=True. Empty for a folder beside the
    products."""

    overwrite: bool = _parameter(False, "Output", tclean=None)
    """Replace the products of an earlier run."""

    resume: bool = _parameter(False, "Output", tclean=None)
    """Finish a run that was interrupted. The cube is bit-identical to that of an undisturbed run. Channels that are safe on
    disk are not imaged again."""

    products: types.Products = _parameter(("image", "residual", "model"), "Output", tclean=None)
    """Which cubes to write, of image, residual, model, psf, dirty, mask, pb, image.pbcor, sumwt and startmodel. pbcor adds
    pb and image.pbcor, and automatic masks add mask. sumwt contains the sum of weights of each plane. startmodel contains the
    model with its axes in CASA's order, which importfits turns into a startmodel for tclean."""

    keep_visibilities: bool = _parameter(False, "Output", tclean=None)
    """Keep the visibilities that the run has read, in the folder OUT.visibilities. A later run with restart=True takes them
    from there instead of reading the MeasurementSets, if these and the selection are still the same. It may image only some of
    the channels."""

    quiet: bool = _parameter(False, "Output", tclean=None)
    """Show no progress."""

    _notes: tuple[str, ...] = PrivateAttr(())
    """Warnings about values that mean something else in tclean, or that make a run continue in an unexpected way."""

    @model_validator(mode="after")
    def _check_together(self) -> Parameters:
        kinds = {value[0] for value in (self.start, self.width) if isinstance(value, tuple)}
        if len(kinds) == 2:
            raise ValueError("`start` and `width` are a frequency and a velocity: give both as the same kind")
        if kinds and (
            (isinstance(self.start, int) and self.start) or (isinstance(self.width, int) and self.width != 1)
        ):
            raise ValueError(
                f"`start` and `width` are a number of channels and a {min(kinds)}: give both as the same kind"
            )
        if isinstance(self.width, tuple) and self.width[1] == 0:
            raise ValueError("`width` is 0: leave it out for channels as wide as those of the data")
        for name in ("calcres", "calcpsf"):
            if self.niter and not (getattr(self, name) or self.restart):
                raise ValueError(
                    f"`{name}=False` needs `niter=0`, because cleaning needs residual and PSF: leave it out"
                )
        continues = self.restart and not (self.calcres and self.calcpsf)
        if not (self.cubes or continues):
            raise ValueError(
                "no product is left: leave out `restoration`, `calcres` and `calcpsf`, or name other `products`"
            )
        if self.weighting == "briggsbwtaper" and not self.perchanweightdensity:
            raise ValueError(
                "`weighting='briggsbwtaper'` needs `perchanweightdensity=True`; for one density use 'briggs'"
            )
        if self.weighting == "briggsabs" and self.robust == self.noise == 0:
            raise ValueError("`weighting='briggsabs'` needs `robust` or `noise` other than 0")
        if self.npixels and self.weighting == "briggsbwtaper":
            raise ValueError(f"`npixels={self.npixels}` does not work with `weighting='briggsbwtaper'`; leave it out")
        one_density = not self.perchanweightdensity and self.weighting != "superuniform"
        of_density = self.npixels and self.weighting not in ("natural", "radial")
        if of_density and not one_density and 2 * self.npixels >= min(self.imsize):
            raise ValueError(
                f"`npixels={self.npixels}` reaches beyond the uv plane, which has {min(self.imsize)} cells: lower it"
            )
        if of_density and one_density and self.npixels < 2:
            raise ValueError("`npixels=1` leaves no uv cells with `perchanweightdensity=False`: give 0 or at least 2")
        if self.resume and self.overwrite:
            raise ValueError("`resume` and `overwrite` are mutually exclusive: give one of them")
        if self.minpsffraction > self.maxpsffraction:
            low, high = f"`minpsffraction={self.minpsffraction:g}`", f"`maxpsffraction={self.maxpsffraction:g}`"
            raise ValueError(f"{low} is above {high}; lower it")
        return self

    def noted(self, *notes: str) -> Parameters:
        """The same parameters with further lines for the user among their warnings."""
        copy = self.model_copy()
        copy._notes = (*self._notes, *notes)
        return copy

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warn of likely mistakes: limits or a mask without effect, and cleaning without a stopping level."""
        found = list(self._notes)
        limits = (
            ("threshold", self.threshold > 0, _flux(self.threshold)),
            ("nsigma", self.nsigma > 0, f"{self.nsigma:g}"),
        )
        mask = ("mask", bool(self.mask) and self.usemask != "auto-multithresh", repr(self.mask))
        unused = [f"`{name}={value}`" for name, given, value in (*limits, mask) if given]
        if self.niter == 0 and unused:
            found.append(
                f"`niter=0` makes the dirty cube and does not use {' and '.join(unused)}: give `niter` to clean"
            )
        if self.niter > 0 and self.threshold == self.nsigma == 0:
            found.append(
                f"`niter={self.niter}` is the only limit: without `nsigma` or `threshold`, channels are cleaned into their noise"
            )
        if self.contsuborder and not self.contsubspw:
            found.append(
                f"`contsuborder={self.contsuborder}` is not used, because no continuum is subtracted without `contsubspw`"
            )
        if not self.weighting.startswith("briggs") and self.robust != type(self).model_fields["robust"].default:
            found.append(f"`robust={self.robust:g}` is not used, because it belongs to `weighting='briggs'`")
        if self.weighting != "briggsabs" and self.noise != type(self).model_fields["noise"].default:
            found.append(f"`noise={_flux(self.noise)}` is not used, because it belongs to `weighting='briggsabs'`")
        if self.npixels and self.weighting in ("natural", "radial"):
            found.append(
                f"`npixels={self.npixels}` is not used, because `weighting='{self.weighting}'` needs no density"
            )
        if self.deconvolver != "multiscale" and (self.scales or self.smallscalebias):
            name = "scales" if self.scales else "smallscalebias"
            found.append(f"`{name}` is not used, because it belongs to `deconvolver='multiscale'`")
        if self.pbcor and not self.restoration:
            found.append("`pbcor=True` corrects no image, because `restoration=False` makes none")
        given = {
            f"pblimit={self.pblimit:g}": self.pblimit > 0
            and self.pblimit != type(self).model_fields["pblimit"].default,
            f"dish_diameter={self.dish_diameter}": self.dish_diameter is not None,
        }
        for text in (text for text, is_given in given.items() if is_given and not self.needs_primary_beam):
            found.append(f"`{text}` is not used, because no primary beam is made: give `pbcor=True`")
        return tuple(found)

    @property
    def cubes(self) -> tuple[str, ...]:
        """The products to be written, in the usual order."""
        wanted = {*self.products, *(("pb", "image.pbcor") if self.pbcor else ())}
        if self.usemask == "auto-multithresh" and self.calcres:
            wanted.add("mask")
        if not self.restoration:
            wanted -= {"image", "image.pbcor"}
        if not self.calcres:
            wanted = (wanted & {"mask", "pb", "sumwt"}) | {"psf"}
        if not self.calcpsf:
            wanted -= {"psf"}
        return tuple(name for name in types.PRODUCTS if name in wanted)

    @property
    def needs_primary_beam(self) -> bool:
        """Whether a product is made from the primary beam."""
        return self.masks_with_beam or "pb" in self.cubes or "image.pbcor" in self.cubes

    @property
    def masks_with_beam(self) -> bool:
        """Whether the clean mask depends on the primary beam."""
        return self.usemask == "pb" or (self.usemask == "auto-multithresh" and self.pbmask > 0)

    @property
    def stokes_names(self) -> tuple[str, ...]:
        """The Stokes planes of the cube: ``("pseudoI",)``, single letters, or hands such as ``("RR", "LL")``."""
        if self.stokes == "pseudoI":
            return ("pseudoI",)
        length = 2 if self.stokes[0] in "RLXY" else 1
        return tuple(self.stokes[at : at + length] for at in range(0, len(self.stokes), length))

    @property
    def centre(self) -> Direction | None:
        """Centre of the image, if it is given as a direction."""
        from gpucube.sky.directions import Direction  # with numpy, which help and wrong options do without

        if not isinstance(self.phasecenter, tuple):
            return None
        ra, dec, frame = self.phasecenter
        return Direction(ra=ra, dec=dec, frame=frame)

    @property
    def follows_field(self) -> bool:
        """Whether the centre of the image moves with the field."""
        return self.phasecenter == "TRACKFIELD" or (self.specmode == "cubesource" and not self.phasecenter)

    @property
    def cell_radians(self) -> tuple[float, float]:
        """Size of a pixel along x and y, radians."""
        return self.cell[0] / ARCSEC_PER_RADIAN, self.cell[1] / ARCSEC_PER_RADIAN

    @property
    def beam(self) -> RestoringBeam:
        """The restoring beam: one for each channel, one common to all, or a given one."""
        from gpucube.sky.beam import Beam

        if not self.restoringbeam:
            return "channel"
        if self.restoringbeam == "common":
            return "common"
        bmaj, bmin, bpa = self.restoringbeam
        return Beam(bmaj=bmaj / ARCSEC_PER_RADIAN, bmin=bmin / ARCSEC_PER_RADIAN, bpa=math.radians(bpa))

    def as_json_dict(self) -> dict[str, Any]:
        """Return the parameters in base units as plain JSON types. `make_parameters` takes them back."""
        return self.model_dump(mode="json")


def make_parameters(*of_call: str, **values: Any) -> Parameters:
    """Check the parameters of the main job, given by name as the user wrote them.

    Values of tclean that change nothing here are accepted. `of_call` are warnings about the call, one line each.
    GpucubeError has one line: an unknown parameter with the nearest right name; a value of tclean that gpucube does not
    have, with what to do instead; or a wrong value with what is accepted.

    >>> make_parameters(vis="a.ms", imagename="out/a", cell="0.2arcsec").cell
    (0.2, 0.2)
    """
    names = [OTHER_NAMES.get(name, name) for name in values if name not in ABSENT_PARAMETERS]
    check_names(Parameters, names, OLD_NAMES)
    known, notes = from_tclean(values)
    parameters = validated(Parameters, known)
    parameters._notes = (*of_call, *notes)
    return parameters
