"""MeasurementSets that do not belong together are refused or warned of before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import altered
from test_observation import Change, selected, subtable

from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters

SIDE = 64 * 20 / 3600
"""Degrees along a side of the image."""


def at(ra: float, dec: float = 30.0, name: str = "SIMLINE") -> Change:
    def change(main: tables.table) -> None:
        with subtable(main, "FIELD") as field:
            for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
                field.putcell(column, 0, np.radians([[ra, dec]]))
            field.putcell("NAME", 0, name)

    return change


def with_the_target_as_field_1(main: tables.table) -> None:
    with subtable(main, "FIELD") as field:
        field.copyrows(field, 0, -1, 1)
    at(189.5, name="3C286")(main)


@pytest.mark.parametrize("field", ["0", "", "SIMLINE"])
def test_a_field_that_is_another_place_in_another_set_is_refused(field: str, tiny_ms: Any, tmp_path: Path) -> None:
    other = altered(tiny_ms.ms, tmp_path, at(189.5))
    with pytest.raises(
        GpucubeError, match=r"but 'SIMLINE' at 189\.5000deg .* 1\.73 deg away: give `field` a name, or a list"
    ):
        selected([tiny_ms.ms, other], field=field)
    with pytest.raises(GpucubeError, match=r"but 'SIMLINE' at 187\.5000deg"):
        selected([other, tiny_ms.ms], field=field)


def test_the_field_at_the_right_place_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    other = altered(tiny_ms.ms, tmp_path, with_the_target_as_field_1)
    with pytest.raises(GpucubeError, match=r"field 1 of .*altered\.ms \('SIMLINE'\) is where the first one is"):
        selected([tiny_ms.ms, other], field="0")


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        pytest.param(at(187.5 + 10 / 3600), False, id="a dither of 10 arcsec"),
        pytest.param(at(187.5, name="J1230+3000"), False, id="another name of the same place"),
        pytest.param(at(187.5 - 360), False, id="a turn of the sky less"),
        pytest.param(at(187.5, 30 + 0.2 * SIDE), True, id="a fifth of the image away"),
    ],
)
def test_fields_within_the_image_are_imaged_together(
    change: Change, warned: bool, tiny_ms: Any, tmp_path: Path
) -> None:
    warnings = selected([tiny_ms.ms, altered(tiny_ms.ms, tmp_path, change)]).warnings
    assert len(warnings) == warned
    assert not warned or "4.27 arcmin away: they are imaged together without primary beams" in warnings[0]


def test_a_given_centre_takes_fields_that_are_far_apart_with_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    vis = [tiny_ms.ms, altered(tiny_ms.ms, tmp_path, at(189.5))]
    (warning,) = selected(vis, phasecenter="J2000 188.5deg 30deg").warnings
    assert "1.73 deg away" in warning


def with_corrected_data(main: tables.table) -> None:
    description = main.getcoldesc("DATA") | {"dataManagerGroup": "Corrected"}
    main.addcols(tables.maketabdesc(tables.makecoldesc("CORRECTED_DATA", description)))
    main.putcol("CORRECTED_DATA", main.getcol("DATA"))


def test_corrected_data_of_one_set_and_raw_data_of_another_give_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    vis = [altered(tiny_ms.ms, tmp_path, with_corrected_data), tiny_ms.ms]
    (warning,) = selected(vis).warnings
    assert f"CORRECTED_DATA of {vis[0]} and DATA of {vis[1]}" in warning
    assert selected(vis, datacolumn="data").warnings == ()


def weights(factor: float) -> Change:
    return lambda main: main.putcol("WEIGHT", factor * main.getcol("WEIGHT"))


@pytest.mark.parametrize(("factor", "warned"), [(1e4, True), (1e-3, True), (5.0, False)])
def test_weights_on_another_scale_give_a_warning(factor: float, warned: bool, tiny_ms: Any, tmp_path: Path) -> None:
    warnings = selected([tiny_ms.ms, altered(tiny_ms.ms, tmp_path, weights(factor))]).warnings
    assert len(warnings) == warned
    assert not warned or f"differ by a factor of {max(factor, 1 / factor):.3g}" in warnings[0]


def test_channel_weights_are_compared_too(make_ms: Any, tiny_ms: Any, tmp_path: Path) -> None:
    def change(main: tables.table) -> None:
        main.putcol("WEIGHT_SPECTRUM", 1e3 * main.getcol("WEIGHT_SPECTRUM"))

    other = altered(make_ms(weight_spectrum=True).ms, tmp_path, change)
    (warning,) = selected([tiny_ms.ms, other]).warnings
    assert "differ by a factor of 1e+03" in warning


def test_one_set_by_two_names_is_refused(tiny_ms: Any, tmp_path: Path) -> None:
    link = tmp_path / "link.ms"
    link.symlink_to(tiny_ms.ms)
    for other in (link, tiny_ms.ms.parent / "." / ".." / tiny_ms.ms.parent.name / tiny_ms.ms.name):
        with pytest.raises(GpucubeError, match="is named twice"):
            make_parameters(vis=[tiny_ms.ms, str(other)], imagename=tmp_path / "cube")


def test_a_phase_centre_that_the_antennas_do_not_see_gives_a_warning(tiny_ms: Any) -> None:
    """25 m dishes at 21 cm: 1.2 * 0.211 / 25 rad are 34.8 arcmin. The image reaches to 10.7 arcmin."""
    (warning,) = selected(tiny_ms.ms, phasecenter="J2000 187.5deg 30.6deg").warnings
    assert warning.startswith("`phasecenter` is 36 arcmin from field 'SIMLINE' at 187.5000deg +30.0000deg")
    assert "the antennas see 34.8 arcmin" in warning
    assert selected(tiny_ms.ms, phasecenter="J2000 187.5deg 30.5deg").warnings == ()
    assert selected(tiny_ms.ms, phasecenter="J2000 187.5deg 30.6deg", imsize=256).warnings == ()
    with pytest.raises(
        GpucubeError, match=r"`phasecenter` is 90.5 deg from .* expected a direction less than 90 degrees"
    ):
        selected(tiny_ms.ms, phasecenter="J2000 187.5deg -60.5deg")


def test_without_diameters_a_phase_centre_more_than_a_degree_off_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    def change(main: tables.table) -> None:
        with subtable(main, "ANTENNA") as antennas:
            antennas.putcol("DISH_DIAMETER", np.zeros(antennas.nrows()))

    ms = altered(tiny_ms.ms, tmp_path, change)
    assert selected(ms, phasecenter="J2000 187.5deg 30.9deg").warnings == ()
    (warning,) = selected(ms, phasecenter="J2000 187.5deg 31.1deg").warnings
    assert "1.1 deg from" in warning and "the antennas may not see it" in warning
