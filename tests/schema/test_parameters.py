"""The schema: what tclean's user writes is understood, every mistake is one line, and the page is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import parameters, reference_page

from gpucube.constants import ARCSEC
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import GROUPS, Parameters, make_parameters
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction

REPOSITORY = Path(__file__).resolve().parents[2]


def make(**values: Any) -> Parameters:
    return make_parameters(**({"vis": "a.ms", "imagename": "out/a"} | values))


def mistake(**values: Any) -> str:
    with pytest.raises(GpucubeError) as caught:
        make(**values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_tcleans() -> None:
    parameters = make()
    # casatasks 6.7, tclean's signature
    tclean = dict(
        field="", spw="", stokes="I", nchan=-1, deconvolver="hogbom", weighting="natural",
        robust=0.5, niter=0, gain=0.1, threshold=0.0, nsigma=0.0, cycleniter=-1, cyclefactor=1.0, minpsffraction=0.05,
        maxpsffraction=0.8, nmajor=-1, usemask="user", mask="", phasecenter="",
    )  # fmt: skip
    assert {name: getattr(parameters, name) for name in tclean} == tclean
    assert parameters.imsize == (100, 100)
    assert parameters.cell == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "written", "base"),
    [
        ("vis", "a.ms/", ("a.ms",)),
        ("vis", [Path("a.ms"), "b.ms"], ("a.ms", "b.ms")),
        ("imagename", Path("out/b"), "out/b"),
        ("field", 3, "3"),
        ("field", np.int32(3), "3"),
        ("field", "3C 286 ", "3C 286"),
        ("field", ["3C 286", 2], ("3C 286", "2")),
        ("field", ["3C 286"], "3C 286"),
        ("field", "['3C 286', '0~1']", ("3C 286", "0~1")),
        ("field", "[OIII] field", "[OIII] field"),
        ("spw", 0, "0"),
        ("spw", ["0", "1:5~20"], ("0", "1:5~20")),
        ("spw", '["0,2", 1]', ("0,2", "1")),
        ("spw", np.array([0, 1]), ("0", "1")),
        ("spw", "0:5~20;30~40,1", "0:5~20;30~40,1"),
        ("stokes", "IQUV", "IQUV"),
        ("stokes", "IV", "IV"),
        ("stokes", "qu", "QU"),
        ("stokes", "pseudoI", "pseudoI"),
        ("stokes", "PSEUDOI", "pseudoI"),
        ("stokes", "rrll", "RRLL"),
        ("start", "", None),
        ("start", "20", 20),
        ("width", "", 1),
        ("width", "-2", -2),
        ("nchan", np.int64(7), 7),
        ("phasecenter", "ICRS 180deg 0deg", (np.pi, 0.0, "ICRS")),
        ("phasecenter", SkyCoord(180 * u.deg, 0 * u.deg), (np.pi, 0.0, "ICRS")),
        ("phasecenter", np.int64(3), 3),
        ("phasecenter", "0", 0),
        ("startmodel", ["a.model"], "a.model"),
        ("contsubspw", (), ""),  # a proposal that found nothing
        ("restfreq", "230.538GHz", 230.538e9),
        ("restfreq", ["1.42GHz"], 1.42e9),
        ("restfreq", ["230.5GHz", "220GHz"], 230.5e9),  # as in tclean, velocities refer to the first
        ("restfreq", [], None),
        ("restfreq", 1.5 * u.GHz, 1.5e9),
        ("imsize", 512, (512, 512)),
        ("imsize", [512, 256], (512, 256)),
        ("imsize", "512,256", (512, 256)),
        ("imsize", "[512, 256]", (512, 256)),
        ("imsize", np.array([512, 256]), (512, 256)),
        ("cell", "2mas", (0.002, 0.002)),
        ("cell", ["1arcsec", "2arcsec"], (1.0, 2.0)),
        ("cell", 0.5, (0.5, 0.5)),
        ("cell", "['1arcsec', '2arcsec']", (1.0, 2.0)),
        ("cell", [1, 2] * u.arcmin, (60.0, 120.0)),
        ("epsilon", "1e-4", 1e-4),
        ("robust", "-2", -2.0),
        ("uvtaper", [], ()),
        ("uvtaper", [""], ()),
        ("uvtaper", "5klambda", (5000.0, 5000.0, 0.0)),
        ("uvtaper", ["5klambda", "3klambda", "45deg"], (5000.0, 3000.0, 45.0)),
        ("niter", "1e4", 10000),
        ("niter", 1e4, 10000),
        ("threshold", "3mJy", 0.003),
        ("threshold", 0.1, 0.1),
        ("threshold", 3 * u.mJy, 0.003),
        ("threshold", 3 * u.mJy / u.beam, 0.003),
        ("weighting", "Briggs", "briggs"),
        ("weighting", " NATURAL ", "natural"),
        ("gridder", "WGridder", "wgridder"),
        ("device", "CPU", "cpu"),
        ("mask", Path("clean.fits"), "clean.fits"),
        ("mask", None, ""),
        ("mask", [10, 20, 30, 40], "box[[10pix, 20pix], [30pix, 40pix]]"),
        ("mask", "[10, 20, 5]", "circle[[10pix, 20pix], 5pix]"),
        (
            "mask",
            ["a.fits", [1, 2, 3], "circle[[1pix,1pix],2pix]"],
            ("a.fits", "circle[[1pix, 2pix], 3pix]", "circle[[1pix,1pix],2pix]"),
        ),
        ("mask", "#CRTFv0\ncircle[[1pix,1pix],2pix]\n", "#CRTFv0; circle[[1pix,1pix],2pix]"),
        ("scratch", Path("/tmp"), "/tmp"),
        ("restoringbeam", [], ""),
        ("restoringbeam", "common", "common"),
        ("restoringbeam", "Common", "common"),
        ("restoringbeam", "1arcsec", (1.0, 1.0, 0.0)),
        ("restoringbeam", ["1arcsec", "0.8arcsec", "30deg"], (1.0, 0.8, 30.0)),
        ("restoringbeam", "1arcsec,0.8arcsec,30deg", (1.0, 0.8, 30.0)),
        ("chunksize", "-1", -1),
        ("chunksize", "auto", "auto"),
        ("chunksize", "AUTO", "auto"),
        ("chunksize", 50, 50),
        ("workers", None, None),
        ("workers", "4", 4),
        ("memory", "2GiB", 2 * 2**30),
        ("overwrite", "yes", True),
        ("products", "psf,Image", ("image", "psf")),
        ("products", ["mask"], ("mask",)),
    ],
)
def test_what_a_user_writes_in_base_units(name: str, written: Any, base: Any) -> None:
    parameters = make(**{name: written})
    assert getattr(parameters, name) == base
    assert make_parameters(**parameters.model_dump()) == parameters
    assert make_parameters(**json.loads(json.dumps(parameters.as_json_dict()))) == parameters


def test_a_taper_on_the_sky_agrees_with_tcleans_documentation() -> None:
    # tclean, uvtaper: "A FWHM_lm of 100.000 arcsec maps to a HWHM_uv of 910.18 lambda"
    along, across, angle = make(uvtaper=["100arcsec"]).uvtaper
    assert along == across == pytest.approx(910.18, abs=0.01)
    assert angle == 0.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nsigma": 3}, "`niter=0` makes the dirty cube and does not use `nsigma=3`: give `niter` to clean"),
        (
            {"threshold": "3mJy", "mask": "clean.fits"},
            "not use `threshold='3mJy'` and `mask='clean.fits'`: give `niter`",
        ),
        ({"niter": 100}, "`niter=100` is the only limit: without `nsigma` or `threshold`, channels are cleaned into"),
        ({"niter": 100, "nmajor": 3}, "without `nsigma` or `threshold`"),
        ({"robust": -1}, "`robust=-1` is not used, because it belongs to `weighting='briggs'`"),
        ({"robust": 0, "weighting": "uniform"}, "`robust=0` is not used"),
    ],
)
def test_unlikely_values_give_a_warning(values: dict[str, Any], said: str) -> None:
    (warning,) = make(**values).warnings
    assert said in warning


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"niter": 9, "nsigma": 3},
        {"niter": 9, "threshold": "1mJy", "mask": "x"},
        {"weighting": "briggs", "robust": -1},
    ],
)
def test_likely_values_give_no_warning(values: dict[str, Any]) -> None:
    assert make(**values).warnings == ()


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().niter = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsize": 512}, "unknown parameter 'imgsize': did you mean 'imsize'?"),
        ({"Niter": 5}, "unknown parameter 'Niter': did you mean 'niter'?"),
        ({"xyzzy": 5}, "unknown parameter 'xyzzy'"),
        ({"imsize": 0}, "`imsize=0`: 0 must be even and at least 32; the next good size is 32"),
        ({"imsize": 513}, "`imsize=513`: 513 must be even and at least 32; the next good size is 540"),
        ({"imsize": 10**6}, "`imsize=1000000`: 1000000 is too large; the largest size is 65536"),
        ({"imsize": "128x128"}, "`imsize='128x128'`: expected an even number from 32 to 65536, or two as in '512,256'"),
        ({"cell": "1"}, "`cell='1'`: '1' has no unit; write e.g. '1arcsec'"),
        ({"threshold": "3"}, "`threshold='3'`: '3' has no unit; write e.g. '3mJy' or '3Jy'"),
        ({"restfreq": "1420.4"}, "`restfreq='1420.4'`: '1420.4' has no unit; write e.g. '1420.4MHz' or '1420.4GHz'"),
        ({"memory": "8"}, "`memory='8'`: '8' has no unit; write e.g. '8GB'"),
        ({"uvtaper": ["5"]}, "`uvtaper=['5']`: '5' has no unit; write e.g. '5klambda' or '5lambda'"),
        ({"uvtaper": ["5klambda", "5klambda", "45"]},
         "`uvtaper=['5klambda', '5klambda', '45']`: '45' has no unit; write e.g. '45deg'"),
        ({"restoringbeam": "5"}, "`restoringbeam='5'`: '5' has no unit; write e.g. '5arcsec'"),
        ({"cell": "-1arcsec"}, "`cell='-1arcsec'`: '-1arcsec' is not positive; expected an angle such as '0.2arcsec'"),
        ({"cell": 3 * u.Jy}, "`cell=3.0 Jy`: '3.0 Jy' is not an angle; expected an angle such as '0.2arcsec'"),
        ({"threshold": "-1mJy"}, "`threshold='-1mJy'`: a threshold cannot be negative; expected e.g. '3mJy', or 0 for none"),
        ({"threshold": "3mjy"}, "`threshold='3mjy'`: '3mjy' has the unknown unit 'mjy'; expected a flux density such as '3mJy'"),
        ({"niter": -1}, "`niter=-1`: expected a whole number from 0"),
        ({"niter": "many"}, "`niter='many'`: expected a whole number from 0"),
        ({"gain": 0}, "`gain=0`: expected a number above 0, at most 1"),
        ({"robust": 3}, "`robust=3`: expected a number from -2 to 2"),
        ({"weighting": "brigs"}, "`weighting='brigs'`: expected 'natural', 'uniform', 'briggs', 'briggsabs', "
         "'briggsbwtaper', 'superuniform' or 'radial': did you mean 'briggs'?"),
        ({"device": "gpu"}, "`device='gpu'`: expected 'auto', 'cpu' or 'cuda': did you mean 'cuda'?"),
        ({"device": 3}, "`device=3`: expected 'auto', 'cpu' or 'cuda'"),
        (
            {"width": 0},
            "`width=0`: expected a number of channels, not 0, or a frequency or velocity with its unit, such as '0.2km/s'",
        ),
        ({"nchan": 0}, "`nchan=0`: expected a whole number from 1, or -1"),
        ({"cycleniter": 0}, "`cycleniter=0`: expected a whole number from 1, or -1"),
        ({"minpsffraction": 0.9}, "`minpsffraction=0.9` is above `maxpsffraction=0.8`; lower it"),
        ({"resume": True, "overwrite": True}, "`resume` and `overwrite` are mutually exclusive: give one of them"),
        (
            {"start": "10parsec"},
            "`start='10parsec'`: expected the number of a channel, from 0, or a frequency or velocity with its unit, such as"
            " '5km/s'",
        ),
        (
            {"start": "10km/s", "width": "1kHz"},
            "`start` and `width` are a frequency and a velocity: give both as the same kind",
        ),
        (
            {"start": "10km/s", "width": 2},
            "`start` and `width` are a number of channels and a velocity: give both as the same kind",
        ),
        ({"width": "0km/s"}, "`width` is 0: leave it out for channels as wide as those of the data"),
        ({"vis": []}, "`vis=[]`: expected the path of a MeasurementSet, or several paths"),
        ({"vis": ["a.ms", "a.ms/"]}, "`vis=['a.ms', 'a.ms/']`: 'a.ms' is named twice"),
        ({"vis": "a.ms,b.ms"},
         "`vis='a.ms,b.ms'`: 'a.ms,b.ms' does not exist; name several MeasurementSets one by one, without commas"),
        ({"products": "residuals"},
         "`products='residuals'`: 'residuals' is not a product; "
         "expected 'image', 'residual', 'model', 'psf', 'dirty', 'mask', 'pb', 'image.pbcor', "
         "'sumwt' or 'startmodel': did you mean 'residual'?"),
        ({"chunksize": 0}, "`chunksize=0`: expected 'auto', a number of channels from 1, or -1"),
        ({"overwrite": "perhaps"}, "`overwrite='perhaps'`: expected True or False"),
        ({"scratch": 3}, "`scratch=3`: expected the path of a folder"),
        ({"scratch": "a`b\n"}, "`scratch='a\'b\\n'`: expected text without line breaks or other control characters"),
        ({"imagename": "out/\udcff"}, "`imagename='out/\\udcff'`: expected text in the encoding of the system, which is utf-8"),
        ({"scheduler": "0\r0"}, "`scheduler='0\\r0'`: expected text without line breaks or other control characters"),
        ({"usemask": "automask"},
         "`usemask='automask'`: expected 'user', 'pb' or 'auto-multithresh'"),
        ({"facets": 2},
         "`facets=2` is not available: `gridder='wgridder'` takes the w term into account without facets; leave it out"),
        ({"pblimit": 1.2}, "`pblimit=1.2`: expected a number from -1 to 1"),
        ({"dish_diameter": "25"}, "`dish_diameter='25'`: '25' has no unit; write e.g. '25m'"),
        ({"dish_diameter": 0}, "`dish_diameter=0`: 0 is not positive; expected a length such as '12m'"),
    ],
)  # fmt: skip
def test_one_line_names_what_is_wrong_and_what_would_be_right(values: dict[str, Any], message: str) -> None:
    assert mistake(**values) == message


@pytest.mark.parametrize("second", ["128", "0.5", "2arcsec"])
def test_a_second_value_written_as_a_word_of_its_own_is_not_taken_for_a_measurementset(
    second: str, tmp_path: Path
) -> None:
    """Such as ``gpucube image a.ms --imsize 128 128``; but a MeasurementSet may have any name."""
    message = mistake(vis=["a.ms", second])
    assert f"{second!r} is not a MeasurementSet; two values are written with a comma, as in `imsize=512,256`" in message
    (tmp_path / second).mkdir()
    assert make(vis=tmp_path / second).vis == (str(tmp_path / second),)


@pytest.mark.parametrize("name", ["vis", "imagename"])
def test_what_is_required_is_named(name: str) -> None:
    given_values = {"vis": "a.ms", "imagename": "a"}
    del given_values[name]
    with pytest.raises(GpucubeError, match=f"^`{name}` is missing: expected "):
        make_parameters(**given_values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specmode", "mfs"),
        ("deconvolver", "mtmfs"),
        ("gridder", "mosaic"),
        ("outframe", "SOURCE"),
        ("interactive", True),
        ("savemodel", "modelcolumn"),
        ("projection", "TAN"),
        ("outlierfile", "outliers.txt"),
        ("psfcutoff", 0.5),
    ],
)
def test_what_only_tclean_has_comes_with_advice(name: str, value: Any) -> None:
    assert mistake(**{name: value}).startswith(f"`{name}={value!r}` is not available: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interactive", False),
        ("interactive", 0),
        ("parallel", True),
        ("savemodel", "none"),
        ("savemodel", ""),
        ("projection", "sin"),
        ("facets", "1"),
        ("selectdata", True),
        ("outlierfile", ""),
        ("psfcutoff", 0.35),
        ("reffreq", "43GHz"),
        ("chanchunks", -1),
        ("verbose", True),
    ],
)
def test_values_of_tclean_that_change_nothing_are_accepted(name: str, value: Any) -> None:
    assert make(**{name: value}) == make()
    assert make(**{name: value}).warnings == make().warnings


@pytest.mark.parametrize(
    ("name", "value", "ours", "warned"),
    [
        ("gridder", "ft", "standard", False),
        ("gridder", "wproject", "wgridder", True),
        ("deconvolver", "clark", "hogbom", True),
    ],
)
def test_other_names_of_tclean_for_the_same_are_taken_for_it(name: str, value: str, ours: str, warned: bool) -> None:
    parameters = make(**{name: value})
    assert getattr(parameters, name) == ours
    assert any(warning.startswith(f"`{name}={value!r}`: ") for warning in parameters.warnings) == warned


def test_the_chunk_size_of_pclean_is_taken() -> None:
    assert make(cube_chunksize=4).chunksize == 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("imagename", ["", " ", "out/", "a\nb", "a\0b", 3]),
        ("stokes", ["VI", "IQQ", "RL", "XXLL", "", 3]),
        ("phasecenter", ["B1950 1h 1d", -3, [1.0, 2.0], [None, 1.0, "FK5"]]),
        ("imsize", [[1, 2, 3], "big", 33.5, True, None, {}]),
        ("cell", ["arcsec", 0, [1, 2, 3], True, None, float("nan")]),
        ("epsilon", [0, 1, 1e-11, "small"]),
        ("uvtaper", ["1,2,3,4", "5kl", ["0arcsec"], {}]),
        ("restoringbeam", ["1", ["1arcsec", "2arcsec", "0deg"], ["1arcsec", "1arcsec"], "uncommon", 0]),
        ("gain", [1.1, float("nan"), "x", None]),
        ("cycleniter", [0, -2]),
        ("nmajor", [-2]),
        ("chunksize", [-2, "automatic", 1.5, None]),
        ("workers", [0, -1, "many", 1.5]),
        ("memory", [0, "-8GB", "lots"]),
        ("restfreq", [0, "1.4m", ["x", "2GHz"]]),
        ("device", ["gpu"]),
        ("spw", [1.5, -1]),
        ("field", [None, -1, 1.5]),
        ("mask", [3, [1, 2], [1, 2, 3, 4, 5], {}, [1, 2, 3] * u.m]),
        ("overwrite", ["perhaps"]),
        ("products", [[], ""]),
    ],
)  # fmt: skip
def test_bad_values_are_named_with_their_parameter(name: str, values: list[Any]) -> None:
    for value in values:
        assert mistake(**{name: value}).startswith(f"`{name}="), value


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1 * u.Jy, 2 * u.arcsec, [1, 2] * u.m, np.zeros(2), np.zeros((2, 2)), np.float32(3), 1j]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(Parameters.model_fields)), value=ANYTHING)
def test_whatever_is_written_is_understood_or_one_line(name: str, value: Any) -> None:
    try:
        parameters = make(**{name: value})
    except GpucubeError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400
    else:
        assert make_parameters(**parameters.as_json_dict()) == parameters


def test_derived_values_are_in_the_units_of_the_arithmetic() -> None:
    parameters = make(
        stokes="IV", phasecenter="ICRS 90deg 30deg", cell="1arcsec,2arcsec", restoringbeam="3arcsec,2arcsec,30deg"
    )
    assert parameters.stokes_names == ("I", "V")
    assert parameters.centre == Direction(ra=np.pi / 2, dec=np.radians(30), frame="ICRS")
    assert parameters.cell_radians == pytest.approx((ARCSEC, 2 * ARCSEC), rel=1e-15)
    beam = parameters.beam
    assert isinstance(beam, Beam)
    assert (beam.bmaj, beam.bmin, beam.bpa) == pytest.approx((3 * ARCSEC, 2 * ARCSEC, np.pi / 6), rel=1e-15)
    assert make().beam == "channel" and make(restoringbeam="common").beam == "common"
    assert make().centre is None and make(stokes="pseudoI").stokes_names == ("pseudoI",)
    assert make(stokes="RRLL").stokes_names == ("RR", "LL") and make(stokes="YY").stokes_names == ("YY",)


def test_every_parameter_is_described() -> None:
    for name, it in parameters().items():
        assert it.description.endswith("."), name
        assert it.accepts and it.annotation and it.group in GROUPS, name
        assert it.metavar or it.annotation in ("bool", "Literal['']"), name


def test_choices_and_limits_describe_themselves() -> None:
    known = parameters()
    assert known["veltype"].annotation == "Literal['radio', 'optical']"
    assert known["veltype"].metavar == "radio|optical"
    assert known["gain"].accepts == "a number above 0, at most 1"
    assert known["epsilon"].accepts == "a number from 1e-10 to 0.01"
    assert known["quiet"].accepts == "True or False"
    assert (known["niter"].tclean, known["epsilon"].tclean, known["outframe"].tclean) == ("same", None, "LSRK")


def test_the_reference_page_is_up_to_date() -> None:
    page = (REPOSITORY / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == reference_page(), "run: python docs/reference.py > docs/parameters.md"
