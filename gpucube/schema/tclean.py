"""What tclean has and gpucube does not, and what to do instead."""

from __future__ import annotations

_NO_MFS = "gpucube makes cubes only; leave it out"
_NO_MULTISCALE = "the deconvolver is 'hogbom'; leave it out"
_NO_MOSAIC = "gpucube images one field without primary-beam terms; leave it out"
_NO_AUTOMASK = "give a FITS `mask`, or limit the depth with `nsigma` or `threshold`"
_NO_RESTART = "every run starts afresh; leave it out"

ABSENT_PARAMETERS: dict[str, str] = {
    "parallel": "channels are always imaged in parallel; say how many processes with `workers`",
    "interactive": "give a FITS `mask`",
    "savemodel": "the model is written as a FITS cube and never to the MeasurementSet; leave it out",
    "pbcor": "divide the image by a primary beam afterwards; leave it out",
    "pblimit": "images are not cut at a primary-beam level; give a FITS `mask` instead",
    "perchanweightdensity": "channels always have their own weights; leave it out",
    "projection": "the projection is always SIN; leave it out",
    "startmodel": "every run starts from an empty model; leave it out",
    "restoration": "leave 'image' out of `products` instead",
    "fullsummary": "the summary is always full; leave it out",
    "verbose": "see `quiet`; leave it out",
    "noise": "it belongs to weighting 'briggsabs'; use `weighting='briggs'` with `robust`",
    "npixels": "use `weighting='briggs'` with `robust`",
    "outlierfile": "image each outlier field in a run of its own",
    "psfcutoff": "the beam is fitted without such a setting; leave it out",
    **dict.fromkeys(("reffreq", "nterms"), _NO_MFS),
    **dict.fromkeys(("scales", "smallscalebias", "fusedthreshold", "largestscale"), _NO_MULTISCALE),
    **dict.fromkeys(
        ("facets", "psfphasecenter", "wprojplanes", "vptable", "mosweight", "aterm", "psterm", "wbawp", "conjbeams")
        + ("cfcache", "usepointing", "computepastep", "rotatepastep", "pointingoffsetsigdev", "normtype"),
        _NO_MOSAIC,
    ),
    "selectdata": "data are always selected by `field`, `spw` and so on; leave it out",
    **dict.fromkeys(
        ("pbmask", "sidelobethreshold", "noisethreshold", "lownoisethreshold", "negativethreshold", "smoothfactor")
        + ("minbeamfrac", "cutthreshold", "growiterations", "dogrowprune", "minpercentchange", "fastnoise"),
        _NO_AUTOMASK,
    ),
    **dict.fromkeys(("restart", "calcres", "calcpsf"), _NO_RESTART),
}
"""tclean's parameters that gpucube does not have, and what to do instead."""

ABSENT_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "specmode": (("mfs", "mtmfs", "mvc", "cubesource"), "use `specmode='cube'`"),
    "deconvolver": (("multiscale", "mtmfs", "clark", "clarkstokes", "asp", "mem"), "use `deconvolver='hogbom'`"),
    "gridder": (
        ("mosaic", "awproject", "awp2", "awphpg", "widefield", "wproject", "facet", "gridft", "wprojectft"),
        "use `gridder='wgridder'` for wide fields, otherwise `gridder='standard'`",
    ),
    "weighting": (
        ("briggsabs", "briggsbwtaper", "superuniform", "radial"),
        "use `weighting='natural'`, `weighting='uniform'` or `weighting='briggs'`",
    ),
    "usemask": (("auto-multithresh", "pb"), _NO_AUTOMASK),
    "outframe": (("REST", "SOURCE"), "use `outframe='LSRK'`"),
}
"""Values that tclean takes and gpucube does not, and what to do instead."""
