"""The functions with which users image and plan from Python.

In: parameters as users write them, with tclean's names and defaults wherever tclean has the concept. Out: a `Result`
or a `Plan`. The signature and the parameters' descriptions come from the schema (``python docs/reference.py signature``
and ``docstring``), and a test holds them to it.
"""

from __future__ import annotations

import inspect
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Never, ParamSpec, TypeVar

import numpy as np

from gpucube import disk, run
from gpucube.data.mask_image import mask_file_content
from gpucube.execution.plan import Plan
from gpucube.output.paths import RunPaths
from gpucube.result import Result
from gpucube.schema.parameters import Parameters, make_parameters
from gpucube.schema.tclean import ABSENT_PARAMETERS, as_tclean_takes
from gpucube.schema.types import DirectionLike, MaskLike, PathLike, QuantityLike
from gpucube.schema.validation import about

P = ParamSpec("P")
T = TypeVar("T")


def image_cube(
    vis: PathLike | Sequence[PathLike],
    imagename: PathLike,
    *,
    field: int | str | Sequence[int | str] = "",
    spw: int | str | Sequence[int | str] = "",
    timerange: str | Sequence[str] = "",
    uvrange: str | Sequence[str] = "",
    antenna: int | str | Sequence[int | str] = "",
    scan: int | str | Sequence[int | str] = "",
    observation: int | str | Sequence[int | str] = "",
    intent: str | Sequence[str] = "",
    datacolumn: Literal["auto", "data", "corrected", "model"] = "auto",
    contsubspw: str | Sequence[str] = "",
    contsuborder: int = 0,
    stokes: str = "I",
    specmode: Literal["cube", "cubedata", "cubesource"] = "cube",
    outframe: Literal["", "LSRK", "LSRD", "BARY", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB", "REST"] = "",
    start: int | QuantityLike | None = None,
    width: int | QuantityLike = 1,
    nchan: int = -1,
    veltype: Literal["radio", "optical"] = "radio",
    interpolation: Literal["nearest", "linear", "cubic"] = "linear",
    phasecenter: DirectionLike | int = "",
    restfreq: QuantityLike | None = None,
    imsize: int | Sequence[int] = 100,
    cell: QuantityLike | Sequence[QuantityLike] = "1arcsec",
    gridder: Literal["standard", "wgridder", "auto"] = "auto",
    epsilon: float = 0.0001,
    weighting: Literal[
        "natural", "uniform", "briggs", "briggsabs", "briggsbwtaper", "superuniform", "radial"
    ] = "natural",
    perchanweightdensity: bool = True,
    robust: float = 0.5,
    noise: QuantityLike = 1.0,
    npixels: int = 0,
    uvtaper: QuantityLike | Sequence[QuantityLike] = (),
    deconvolver: Literal["hogbom", "multiscale"] = "hogbom",
    scales: float | Sequence[float] = (),
    smallscalebias: float = 0.0,
    minorcycle: Literal["activeset", "textbook"] = "activeset",
    majorcycle: Literal["auto", "visibility", "image"] = "auto",
    niter: int = 0,
    gain: float = 0.1,
    threshold: QuantityLike = 0.0,
    nsigma: float = 0.0,
    cyclefactor: float = 1.0,
    cycleniter: int = -1,
    minpsffraction: float = 0.05,
    maxpsffraction: float = 0.8,
    nmajor: int = -1,
    usemask: Literal["user", "pb", "auto-multithresh"] = "user",
    mask: MaskLike | Sequence[MaskLike] = "",
    startmodel: PathLike = "",
    restart: bool = False,
    pbmask: float = 0.0,
    sidelobethreshold: float = 3.0,
    noisethreshold: float = 5.0,
    lownoisethreshold: float = 1.5,
    negativethreshold: float = 0.0,
    smoothfactor: float = 1.0,
    minbeamfrac: float = 0.3,
    cutthreshold: float = 0.01,
    growiterations: int = 75,
    dogrowprune: bool = True,
    minpercentchange: float = -1.0,
    fastnoise: bool = True,
    restoringbeam: QuantityLike | Sequence[QuantityLike] = "",
    restoration: bool = True,
    calcres: bool = True,
    calcpsf: bool = True,
    pbcor: bool = False,
    pblimit: float = 0.2,
    dish_diameter: QuantityLike | None = None,
    chunksize: int | str = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int | None = None,
    memory: QuantityLike | None = None,
    scheduler: str = "",
    scratch: PathLike = "",
    overwrite: bool = False,
    resume: bool = False,
    products: str | Sequence[str] = ("image", "residual", "model"),
    keep_visibilities: bool = False,
    quiet: bool = False,
    **unknown: Never,
) -> Result:
    """Image MeasurementSets into a deconvolved spectral cube.

    Every channel runs its own major/minor loop until that channel has converged.

    Parameters
    ----------
    vis : the path of a MeasurementSet, or several paths
        The MeasurementSet to image, or several to image together.
    imagename : a path without ending, such as 'out/target'
        Path with which the names of all products begin: OUT gives OUT.image.fits and so on. A missing folder is created.
    field : names or numbers of fields, such as '3C286', 'M3*' or '0,2~3'; default ''
        The field to image, in CASA's syntax. Several entries of the table FIELD are one field if they have the same
        direction. Empty for all fields that have data, which must then be one field. A list has one selection for each
        MeasurementSet.
    spw : text such as '0', '0,2', '0~3', '*' or '0:5~20;30~40,1'; default ''
        Spectral windows and, after a colon, their channels, in CASA's syntax. Numbers count from 0 and ranges include both
        ends. Empty for everything. A list has one selection for each MeasurementSet.
    timerange : times such as '2019/03/21/04:05:06~04:35:00' or '>04:05:06'; default ''
        Times to image, in CASA's syntax, UTC. Empty for all. A list has one selection for each MeasurementSet.
    uvrange : distances such as '<100m' or '5~20klambda'; default ''
        Distances in the uv plane to image, in CASA's syntax: in metres, or in wavelengths at the reference frequency of the
        window. Empty for all. A list has one selection for each MeasurementSet.
    antenna : antennas or baselines such as 'DV01', '0~3&', 'DV*&DA*' or '!DV05'; default ''
        Antennas and baselines to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet.
    scan : numbers such as '3', '1~4,7' or '>=3'; default ''
        Scans to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet.
    observation : numbers such as '3', '1~4,7' or '>=3'; default ''
        Observations (OBSERVATION_ID) to image, in CASA's syntax. Empty for all. A list has one selection for each
        MeasurementSet.
    intent : intents such as 'OBSERVE_TARGET#ON_SOURCE' or '*TARGET*'; default ''
        Intents to image, in CASA's syntax. Empty for all. A list has one selection for each MeasurementSet.
    datacolumn : 'auto', 'data', 'corrected' or 'model'; default 'auto'
        Which visibilities to image. 'auto' takes CORRECTED_DATA if the MeasurementSet has it, otherwise DATA.
    contsubspw : text such as '0:5~20;40~59', '*:1.41~1.42GHz' or '0:-50~10km/s;90~150km/s'; default ''
        Line-free channels. The continuum of every row and correlation is fitted to them and subtracted. They are written as
        in `spw`, or as velocities with a unit in the frame of the cube. Empty for no subtraction. A list has one selection
        for each MeasurementSet.
    contsuborder : a whole number from 0 to 4; default 0
        Order of the polynomial in frequency that is fitted to the channels of contsubspw: 0 is a constant.
    stokes : 'I', 'pseudoI', several of I, Q, U, V in this order, or 'RR', 'LL', 'RRLL', 'XX', 'YY', 'XXYY'; default 'I'
        Stokes parameters to image. 'I' uses a sample only if neither parallel hand is flagged; 'pseudoI' uses whichever
        hand is not flagged. 'RR', 'LL', 'XX' and 'YY' are single hands.
    specmode : 'cube', 'cubedata' or 'cubesource'; default 'cube'
        'cube' makes a cube in the frame outframe, 'cubedata' one in the frame of the data. 'cubesource' makes one in the
        rest frame of an object with an ephemeris: it follows the radial velocity of the object, and its position as
        phasecenter='TRACKFIELD' does.
    outframe : '', 'LSRK', 'LSRD', 'BARY', 'GEO', 'TOPO', 'GALACTO', 'LGROUP', 'CMB' or 'REST'; default ''
        Frame of the cube's frequencies. Every row is converted with the Doppler factor of its time and field. Empty for the
        frame of the data, or for LSRK if start is a velocity and the data are in TOPO or GEO. REST is only for data that
        are already in this frame.
    start : the number of a channel, from 0, or a frequency or velocity with its unit, such as '5km/s'; default None
        Centre of the cube's first channel. A number without a unit is the number of a channel in its spectral window. By
        default the cube begins where the selected data begin.
    width : a number of channels, not 0, or a frequency or velocity with its unit, such as '0.2km/s'; default 1
        Width of the cube's channels; a number without a unit counts channels of the data. With a negative width, channel
        number or frequency falls along the axis. With a positive width in velocity, velocity rises and so frequency falls.
    nchan : a whole number from 1, or -1; default -1
        Number of channels of the cube. -1 for as many as the data fill.
    veltype : 'radio' or 'optical'; default 'radio'
        Convention of the velocities in `start` and `width`, and of those in plan, table, summary and report.
    interpolation : 'nearest', 'linear' or 'cubic'; default 'linear'
        How visibilities are interpolated in frequency if the channels of the cube are not those of the data.
    phasecenter : a direction such as 'J2000 12h30m00s +30d00m00s' or 'ICRS 187.5deg 30deg', or the number of a field; default ''
        Centre of the image, or the number of a field whose phase centre it is. Empty for that of the imaged field. Colons
        count hours in right ascension and degrees in declination. 'TRACKFIELD' follows a field that moves.
    restfreq : a frequency (Hz) such as '230.538GHz'; default None
        Rest frequency of the line, which velocities refer to. By default the one in the MeasurementSet, if there is one.
        The first of a list counts.
    imsize : an even number from 32 to 65536, or two as in '512,256'; default 100
        Size of the image in pixels; two numbers are nx and ny. Sizes without prime factors above 7 are quickest.
    cell : an angle (arcsec) such as '0.2arcsec', or two; default '1arcsec'
        Size of a pixel; two angles are the sizes along x and y. Text needs a unit.
    gridder : 'standard', 'wgridder' or 'auto'; default 'auto'
        'auto' corrects for the w term if neglecting it would matter. 'standard' always neglects it, as in tclean.
        'wgridder' corrects for it.
    epsilon : a number from 1e-10 to 0.01; default 0.0001
        Relative accuracy of gridding and degridding.
    weighting : 'natural', 'uniform', 'briggs', 'briggsabs', 'briggsbwtaper', 'superuniform' or 'radial'; default 'natural'
        Imaging weights. 'briggsbwtaper' needs perchanweightdensity=True. 'superuniform' always uses one density for all
        channels, as in tclean.
    perchanweightdensity : True or False; default True
        True computes the weights of every channel from its own density of samples. False uses one density of all channels,
        so that their beams are more similar.
    robust : a number from -2 to 2; default 0.5
        Robustness of the Briggs weightings: -2 is close to uniform weights, 2 to natural weights.
    noise : a flux density (Jy) such as '3mJy'; default 1.0
        Noise of a visibility, for weighting='briggsabs'.
    npixels : a whole number from 0; default 0
        A square that extends this many cells of the uv plane to every side. weighting='superuniform' sums the density over
        it, and 0 means 3. 'uniform', 'briggs' and 'briggsabs' average the density over it. If they use one density for all
        channels, npixels is the size in pixels of the image whose uv cells the density has.
    uvtaper : bmaj, or bmaj, bmin, bpa as in ['5klambda', '3klambda', '45deg']; default ()
        Gaussian taper of the weights. Angles are full widths at half maximum on the sky. Lengths in wavelengths are half
        widths at half maximum in the aperture. bpa is the position angle.
    deconvolver : 'hogbom' or 'multiscale'; default 'hogbom'
        Algorithm of the minor cycle: points ('hogbom'), or components of several scales for extended emission
        ('multiscale').
    scales : sizes in pixels from 0, such as [0, 5, 15]; default ()
        Sizes of the components of deconvolver='multiscale', in pixels; 0 is a point. Empty for a point, the beam, and
        further scales that are each three times the previous one, up to a sixth of the image.
    smallscalebias : a number from -1 to 1; default 0.0
        For deconvolver='multiscale': components of the largest scale count 1 - smallscalebias times as much as points. For
        other scales the reduction is in proportion to their size. A value above 0 prefers small scales.
    minorcycle : 'activeset' or 'textbook'; default 'activeset'
        'activeset' updates only those pixels of the residual that may become peaks, 'textbook' updates the whole image.
    majorcycle : 'auto', 'visibility' or 'image'; default 'auto'
        How the residual is recomputed: from the visibilities, or in the image, which is exact if the w term is neglected.
        'auto' takes the cheaper way that is exact.
    niter : a whole number from 0; default 0
        Largest number of minor-cycle iterations PER CHANNEL (tclean counts over all channels). 0 makes the dirty cube.
    gain : a number above 0, at most 1; default 0.1
        Fraction of the peak that one iteration subtracts.
    threshold : a flux density (Jy/beam) such as '3mJy'; default 0.0
        A channel is finished when its peak residual is below this.
    nsigma : a number from 0; default 0.0
        A channel is finished when its peak residual is below this many times its noise (1.4826 MAD of the residual).
    cyclefactor : a number above 0; default 1.0
        A minor cycle stops at cyclefactor times the largest sidelobe of the PSF times the peak it began with.
    cycleniter : a whole number from 1, or -1; default -1
        Largest number of iterations in one minor cycle. -1 for no limit.
    minpsffraction : a number from 0 to 1; default 0.05
        A minor cycle never goes below this fraction of the peak it began with.
    maxpsffraction : a number from 0 to 1; default 0.8
        A minor cycle always goes down at least to this fraction of the peak it began with.
    nmajor : a whole number from 0, or -1; default -1
        Largest number of major cycles per channel. -1 for no limit.
    usemask : 'user', 'pb' or 'auto-multithresh'; default 'user'
        Where the clean mask comes from. 'user' takes mask. 'pb' makes it from the primary beam (pbmask), inside mask if
        there is one. 'auto-multithresh' makes it from the residual, again for every cycle of every channel, beginning with
        mask if there is one (Kepley et al. 2020).
    mask : an image (FITS or CASA), a file or a text of regions (CRTF or DS9), in Python an array, or several of these; default ''
        Clean mask: where components may be found. An image selects its pixels that are not 0, or those that an expression
        such as 'out.image > 0.003' selects; an image of one plane applies to all channels, and one with another pixel grid
        is regridded. Numbers are pixels: [x0, y0, x1, y1] of a box, [x, y, r] of a circle. Several masks are combined.
        Empty for the whole image.
    startmodel : the path of a FITS or CASA image; default ''
        Model in Jy/pixel to start from, such as the model of an earlier run or of tclean. It is regridded to the pixels of
        the cube, and its channels are found by frequency. Empty for none.
    restart : True or False; default False
        Continue from the model of the finished run with this imagename, for example with a lower threshold or another mask.
        The products are replaced. Automatic masks continue to grow from those of that run. Without such a run this has no
        effect.
    pbmask : a number from 0 to 1; default 0.0
        Level of the primary beam above which usemask='pb' allows components. If it is above 0, it also limits the masks of
        usemask='auto-multithresh'.
    sidelobethreshold : a number from 0; default 3.0
        A mask contains pixels above sidelobethreshold times the sidelobe level of the PSF times the peak of the residual.
    noisethreshold : a number from 0; default 5.0
        A mask contains pixels above this many times the noise, if that is higher than the level of sidelobethreshold.
    lownoisethreshold : a number from 0; default 1.5
        Masks grow down to this many times the noise, but not below the level of sidelobethreshold.
    negativethreshold : a number from 0; default 0.0
        Negative features are masked below minus this many times the noise. 0 for none.
    smoothfactor : a number from 0; default 1.0
        Masks are smoothed with the beam, enlarged by this factor.
    minbeamfrac : a number; default 0.3
        Regions smaller than this many beams are removed. 0 or less keeps all of them.
    cutthreshold : a number from 0 to 1; default 0.01
        Smoothed masks are cut at this fraction of their maximum.
    growiterations : a whole number from 0; default 75
        Number of pixels by which a mask may grow in a cycle.
    dogrowprune : True or False; default True
        Whether minbeamfrac also applies to the regions after they have grown.
    minpercentchange : a number; default -1.0
        The mask of a channel is kept once it has changed by less than this percentage in a cycle that went down to the stop
        level. Below 0 it is never kept.
    fastnoise : True or False; default True
        True takes the noise for masks from the whole residual, False from the pixels outside the mask.
    restoringbeam : '', 'common', '1arcsec' or ['1arcsec', '0.8arcsec', '30deg']; default ''
        Beam of the restored image. Empty for each channel's own beam, 'common' for the smallest beam that contains those of
        all channels. Otherwise full widths at half maximum bmaj and bmin, and the position angle bpa.
    restoration : True or False; default True
        Make the restored image. False leaves out the products image and image.pbcor.
    calcres : True or False; default True
        Make dirty image and residual. False, which needs niter=0, makes only the PSF. With restart=True it has no effect on
        a run that continues an earlier one.
    calcpsf : True or False; default True
        Write the PSF if it is among products. False needs niter=0, or restart=True and an earlier run.
    pbcor : True or False; default False
        Also write the primary beam, OUT.pb.fits, and the image divided by it, OUT.image.pbcor.fits.
    pblimit : a number from -1 to 1; default 0.2
        Level of the primary beam below which the products pb and image.pbcor are blank. Its sign does not matter. Other
        products are not affected (tclean also blanks image and residual if it is positive).
    dish_diameter : a length (m) such as '12m'; default None
        Diameter of the antennas. The primary beam is then that of a dish of this size, for telescopes that gpucube does not
        know. By default the telescope of the MeasurementSet determines the primary beam.
    chunksize : 'auto', a number of channels from 1, or -1; default 'auto'
        How many channels are imaged together. -1 for one chunk per worker. The cube does not depend on it.
    device : 'auto', 'cpu' or 'cuda'; default 'auto'
        Where the imaging runs. 'auto' takes the GPUs if they can be used, otherwise the CPU cores.
    workers : a whole number from 1; default None
        Number of processes. By default the number of cores, or of GPUs.
    memory : a memory size (bytes) such as '8GB'; default None
        Host memory that the run may use. By default 80 % of what is available.
    scheduler : an address such as 'tcp://host:8786'; default ''
        Address of a running Dask scheduler. Empty for workers on this machine.
    scratch : the path of a folder; default ''
        Folder that holds the visibilities during the run, unless keep_visibilities=True. Empty for a folder beside the
        products.
    overwrite : True or False; default False
        Replace the products of an earlier run.
    resume : True or False; default False
        Finish a run that was interrupted. The cube is bit-identical to that of an undisturbed run. Channels that are safe
        on disk are not imaged again.
    products : one or several names of products; default ('image', 'residual', 'model')
        Which cubes to write, of image, residual, model, psf, dirty, mask, pb, image.pbcor, sumwt and startmodel. pbcor adds
        pb and image.pbcor, and automatic masks add mask. sumwt contains the sum of weights of each plane. startmodel
        contains the model with its axes in CASA's order, which importfits turns into a startmodel for tclean.
    keep_visibilities : True or False; default False
        Keep the visibilities that the run has read, in the folder OUT.visibilities. A later run with restart=True takes
        them from there instead of reading the MeasurementSets, if these and the selection are still the same. It may image
        only some of the channels.
    quiet : True or False; default False
        Show no progress.
    **unknown
        Any other name raises `GpucubeError`, which suggests the most similar known name.

    Returns
    -------
    Result
        One record per channel, and the paths of the products.

    Raises
    ------
    GpucubeError
        Bad parameters, bad input or too few resources, in one line.

    Examples
    --------
    >>> result = gpucube.image_cube("target.ms", "out/target", imsize=512, cell="1arcsec")  # doctest: +SKIP
    >>> result.failed_channels  # doctest: +SKIP
    []
    """
    given = locals()
    given |= given.pop("unknown")
    with _checked(given, os.fspath(imagename)) as parameters:
        return run.image(parameters)


def _tclean_signature() -> inspect.Signature:
    """The signature of tclean, with its defaults, from the schema. gpucube's own parameters follow."""
    defaults: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, field in Parameters.model_fields.items():
        if not field.is_required():
            tclean = about(field).tclean
            (own if tclean is None else defaults)[name] = field.default if tclean in (None, "same") else tclean
    defaults |= {name: absent.default for name, absent in ABSENT_PARAMETERS.items()}
    kinds = inspect.Parameter
    required = [kinds("vis", kinds.POSITIONAL_OR_KEYWORD), kinds("imagename", kinds.KEYWORD_ONLY)]
    optional = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in (defaults | own).items()]
    return inspect.Signature([*required, *optional], return_annotation="dict[str, Any]")


def tclean(vis: PathLike | Sequence[PathLike], *, imagename: PathLike, **parameters: Any) -> dict[str, Any]:
    """Image MeasurementSets with a call written for CASA's tclean.

    All 92 parameters of tclean 6.7 are known, with its defaults (``specmode="mfs"`` included, which gpucube lacks: give
    ``specmode="cube"``), and those of `image_cube` beside them. docs/tclean.md has the differences.

    Parameters
    ----------
    vis, imagename, **parameters
        Those of tclean and of `image_cube`. None stands for the default, and so does empty text where tclean takes it. A
        value that changes nothing here, such as ``interactive=False`` or ``parallel=True``, is accepted.

    Returns
    -------
    dict
        What tclean returns, where that has a meaning here (`Result.as_tclean`), and under ``"result"`` the `Result`.

    Raises
    ------
    GpucubeError
        As `image_cube`; also for a value of tclean that would change the result and is not available.

    Warns
    -----
    UserWarning
        Where a value means something else than in tclean: ``niter`` counts for each channel, and ``interactive=True`` opens
        no viewer.

    Examples
    --------
    >>> gpucube.tclean("target.ms", imagename="out/target", specmode="cube", imsize=[512, 512], cell="0.2arcsec",
    ...                niter=10000, threshold="3mJy", interactive=False, parallel=True)["stopcode"]  # doctest: +SKIP
    2
    """
    defaults = {
        name: parameter.default
        for name, parameter in _TCLEAN.parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    values, notes = as_tclean_takes({"vis": vis, "imagename": imagename} | parameters, defaults)
    with _checked(values, os.fspath(imagename), notes) as checked:
        result = run.image(checked)
    return result.as_tclean() | {"result": result}


_TCLEAN = tclean.__signature__ = _tclean_signature()  # type: ignore[attr-defined]  # for help and completion


@contextmanager
def _checked(given: dict[str, Any], beside: str, notes: Sequence[str] = ()) -> Iterator[Parameters]:
    """Check the parameters. A mask that is an array is written to a file `beside`, which is removed if no run keeps it."""
    given, paths, contents = dict(given), RunPaths(beside), {}

    def path_of(mask: Any) -> Any:
        if not isinstance(mask, np.ndarray) or mask.ndim == 1:
            return mask
        content = mask_file_content(mask)
        path = paths.given_mask(f"{zlib.crc32(content):08x}")
        contents[path] = content
        return path

    mask = given.get("mask")
    given["mask"] = [path_of(item) for item in mask] if isinstance(mask, list | tuple) else path_of(mask)
    parameters = make_parameters(*notes, **given)
    if not contents:
        yield parameters
        return
    with disk.folder_made(paths.folder):
        fresh = [path for path in contents if not os.path.exists(path)]
        for path in fresh:  # a run that is resumed must find its mask unchanged
            disk.write_whole(path, contents[path])
        try:
            yield parameters
        except BaseException:
            for path in fresh:
                if not os.path.exists(paths.journal):
                    disk.remove_if_possible(path)
            raise


def _takes_the_parameters_of(model: Callable[P, object]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Give a function the signature of another one, for type checkers, help and completion."""

    def decorate(function: Callable[..., T]) -> Callable[P, T]:
        parameters = inspect.signature(model).parameters.values()
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.Signature(list(parameters), return_annotation=returned)  # type: ignore[attr-defined]  # read by `inspect`
        return function

    return decorate


@_takes_the_parameters_of(image_cube)
def plan_cube(vis: PathLike | Sequence[PathLike], imagename: PathLike, **parameters: object) -> Plan:
    """Predict what `image_cube` would do and need, without doing it.

    Parameters
    ----------
    vis, imagename, **parameters
        The parameters of `image_cube`.

    Returns
    -------
    Plan
        Expected beam and noise, recommended cell, channels, workers, memory, disk space and files. ``print(plan)`` shows
        them as ``gpucube plan`` does.

    Raises
    ------
    GpucubeError
        Bad parameters, bad input or too few resources, in one line.
    """
    given = {"vis": vis, "imagename": imagename} | parameters
    with tempfile.TemporaryDirectory() as folder, _checked(given, f"{folder}/plan") as checked:
        return run.plan(checked)[0]
