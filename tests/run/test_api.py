"""The Python face: what `dir`, `help`, type checkers and notebooks see, and what a result gives back."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from astropy import units as u
from astropy.io import fits
from casacore import tables
from jobs import SETTINGS, altered, image, payload, tree

import gpucube
from gpucube.schema.parameters import Parameters


@pytest.fixture(scope="module")
def result(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    return image(tiny_ms.ms, tmp_path_factory.mktemp("result") / "cube")


def test_dir_and_help_show_every_public_name() -> None:
    assert {"image_cube", "plan_cube", "open_run", "write_report", "simulate_ms", "Result"} <= set(dir(gpucube))
    text = pydoc.plain(pydoc.render_doc(gpucube))
    for name in set(gpucube.__all__) - {"__version__"}:
        assert name in text


@pytest.mark.parametrize("function", ["image_cube", "plan_cube"])
def test_the_signature_is_the_schema(function: str) -> None:
    found = inspect.signature(getattr(gpucube, function)).parameters
    assert [name for name in found if name != "unknown"] == list(Parameters.model_fields)
    for name, field in Parameters.model_fields.items():
        if not field.is_required():
            assert found[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert found[name].default == field.default


def test_the_signature_and_the_docstring_are_those_that_the_schema_writes() -> None:
    source = inspect.getsource(inspect.getmodule(gpucube.image_cube))  # type: ignore[arg-type]
    unwrapped = "".join(source.split())
    for line in reference.signature().splitlines():
        assert "".join(line.split()) in unwrapped, "run: python docs/reference.py signature"
    for line in reference.docstring().splitlines():
        assert f"    {line}\n" in source, "run: python docs/reference.py docstring"


def test_help_describes_every_parameter() -> None:
    text = pydoc.plain(pydoc.render_doc(gpucube.image_cube))
    for name in Parameters.model_fields:
        assert f"\n    {name} : " in text


def test_a_wrong_name_gets_the_right_one(tmp_path: Path) -> None:
    for function in (gpucube.image_cube, gpucube.plan_cube):
        with pytest.raises(gpucube.GpucubeError, match="unknown parameter 'imzise': did you mean 'imsize'"):
            function("a.ms", tmp_path / "cube", imzise=512)  # type: ignore[arg-type]


def test_a_type_checker_reports_a_wrong_name(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text('import gpucube\n\ngpucube.image_cube("a.ms", "b", imzise=512)\n')
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", str(tmp_path), str(script)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(gpucube.__file__).parent.parent)
    assert found.returncode == 1
    assert 'Argument "imzise" to "image_cube"' in found.stdout


def test_a_result_of_60_channels_shows_itself_on_one_screen(result: gpucube.Result) -> None:
    many = gpucube.Result(channels=result.channels * 5, products=result.products, summary=result.summary)
    lines = repr(many).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 200
    assert "channels    60" in repr(many)
    assert "<table>" in many._repr_html_()


def test_a_result_gives_a_table_with_units(result: gpucube.Result) -> None:
    table = result.table()
    assert len(table) == len(result.channels)
    assert str(table["noise"].unit) == "Jy / beam"
    blank = [record.channel for record in result.channels if record.noise is None]
    assert blank == [2]
    assert np.flatnonzero(np.isnan(table["noise"])).tolist() == blank
    assert table["iterations"].sum() == sum(record.iterations for record in result.channels)


@pytest.mark.parametrize(("veltype", "convention"), [("radio", u.doppler_radio), ("optical", u.doppler_optical)])
def test_table_summary_and_words_have_velocities_with_frame_and_convention(
    tiny_ms: Any, tmp_path: Path, veltype: str, convention: Any
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", niter=0, nchan=4, width=2, veltype=veltype)
    table = result.table()
    meaning = f"LSRK, {veltype}, rest frequency 1420.405752MHz"
    expected = table["frequency"].quantity.to("km/s", convention(1420.405752 * u.MHz))
    assert (table["velocity"].unit, table["velocity"].description) == ("km/s", meaning)
    np.testing.assert_allclose(table["velocity"], expected.value, rtol=1e-9)
    assert (table["visibilities_off_grid"] == 0).all()
    axis = result.summary["spectral_axis"]
    assert (axis["frame"], axis["veltype"], axis["rest_frequency_hz"]) == ("LSRK", veltype, 1420.405752e6)
    assert [axis["first_velocity_km_s"], axis["last_velocity_km_s"]] == pytest.approx(expected.value[[0, -1]])
    assert axis["channel_width_km_s"] == pytest.approx(abs(expected.value[1] - expected.value[0]), rel=1e-4)
    assert f"{expected.value[0]:.2f} to {expected.value[-1]:.2f} km/s ({meaning})" in repr(result)


def test_without_a_rest_frequency_velocities_are_nan(make_ms: Any, tmp_path: Path) -> None:
    ms = altered(make_ms().ms, tmp_path, lambda t: None)
    with tables.table(str(ms / "SOURCE"), readonly=False, ack=False) as t:
        t.putcell("REST_FREQUENCY", 0, np.zeros(1))
    with pytest.warns(UserWarning, match="the MeasurementSet gives no rest frequency"):
        result = image(ms, tmp_path / "cube", niter=0, nchan=3)
    assert np.isnan(result.table()["velocity"]).all()
    assert result.summary["spectral_axis"]["first_velocity_km_s"] is None and "velocity" not in repr(result)


def test_a_result_gives_its_cubes(result: gpucube.Result) -> None:
    pixels = result.data("residual")
    assert pixels.shape == (1, 12, 64, 64)
    np.testing.assert_array_equal(pixels, fits.getdata(result.products["residual"]))
    assert result.cube().shape == (12, 64, 64)
    with pytest.raises(gpucube.GpucubeError, match="made no 'pb' cube: it made image"):
        result.data("pb")


def test_a_finished_run_is_opened_again(result: gpucube.Result, tmp_path: Path) -> None:
    imagename = Path(result.products["summary"].removesuffix(".summary.json"))
    again = gpucube.open_run(imagename)
    assert again.channels == result.channels
    assert again.products == result.products
    with pytest.raises(gpucube.GpucubeError, match="no finished run is called"):
        gpucube.open_run(tmp_path / "nothing")


def test_a_plan_makes_nothing(tiny_ms: Any, tmp_path: Path) -> None:
    plan = gpucube.plan_cube(tiny_ms.ms, tmp_path / "cube", **SETTINGS)
    assert plan.nchan == 12
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [np.ones((64, 64), object), np.full((64, 64), "a"), np.ones((64, 64), complex)])
def test_a_mask_of_anything_but_real_numbers_is_refused(mask: np.ndarray, tiny_ms: Any, tmp_path: Path) -> None:
    with pytest.raises(gpucube.GpucubeError, match=f"`mask` is an array of type {mask.dtype}: expected"):
        gpucube.image_cube(tiny_ms.ms, tmp_path / "cube", **(SETTINGS | {"mask": mask}))
    assert tree(tmp_path) == []


def test_a_mask_may_be_an_array(tiny_ms: Any, tmp_path: Path) -> None:
    """The same components are found as with the same mask in a file; a resumed run finds its mask unchanged."""
    mask = np.zeros((64, 64), bool)
    mask[20:30, 35:45] = True
    fits.PrimaryHDU(mask.astype(np.int16)).writeto(tmp_path / "mask.fits")
    by_file = gpucube.image_cube(tiny_ms.ms, tmp_path / "file", **(SETTINGS | {"mask": tmp_path / "mask.fits"}))
    with_array = SETTINGS | {"mask": mask}
    by_array = gpucube.image_cube(tiny_ms.ms, tmp_path / "new" / "array", **with_array)
    assert payload(by_array) == payload(by_file)
    again = gpucube.image_cube(tiny_ms.ms, tmp_path / "new" / "array", resume=True, **with_array)
    assert again.channels == by_array.channels
    # what cannot be imaged leaves nothing behind
    with pytest.raises(gpucube.GpucubeError, match="shape 8x8"):
        gpucube.image_cube(tiny_ms.ms, tmp_path / "wrong" / "cube", **(SETTINGS | {"mask": np.ones((8, 8))}))
    assert not (tmp_path / "wrong").exists()
    # among other masks, too
    several = SETTINGS | {"mask": [mask, "box[[0pix,0pix],[3pix,3pix]]", mask.T]}
    mask_of_several = gpucube.image_cube(tiny_ms.ms, tmp_path / "several", **several).data("mask")[0, 0]
    np.testing.assert_array_equal(mask_of_several, mask | mask.T | np.pad(np.ones((4, 4), bool), (0, 60)))
    gpucube.plan_cube(tiny_ms.ms, tmp_path / "planned", **(SETTINGS | {"mask": mask}))
    assert not list(tmp_path.glob("planned*"))
