"""A simulated MeasurementSet holds what its parameters and its truth say, read back with casacore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore.tables import table
from oracles import direct_dirty, direct_predict

from gpucube.errors import GpucubeError
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters, SimulationResult, simulate_ms
from gpucube.simulate.arrays import ARRAYS, antenna_positions
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry

CELL = np.deg2rad(20.0 / 3600.0)
CLEAN: dict[str, Any] = {"noise": 0.0, "flag_rows": 0.0, "flag_cells": 0.0, "flag_channels": ()}

MakeMS = Callable[..., SimulationResult]


def columns(ms: Path, *names: str) -> list[np.ndarray]:
    with table(str(ms), ack=False) as main:
        return [main.getcol(name) for name in names]


def components(truth: Any, channel: int) -> list[tuple[float, float, float]]:
    return list(zip(truth["l"], truth["m"], truth["flux"][:, channel], strict=True))


def test_noiseless_data_are_the_direct_fourier_sum_of_the_truth(make_ms: MakeMS) -> None:
    result = make_ms(**CLEAN, continuum=2)
    truth = np.load(result.truth)
    data, uvw = columns(result.ms, "DATA", "UVW")
    for channel in range(12):
        expected = direct_predict(uvw, truth["freq"][channel], components(truth, channel))
        # stored as complex64: 6e-8 of each part, of visibilities up to a few Jy
        np.testing.assert_allclose(data[:, channel, 0], expected, atol=1e-6)
        np.testing.assert_array_equal(data[:, channel, 1], data[:, channel, 0])


def test_explicit_sources_appear_at_their_pixels_with_x_to_the_west(make_ms: MakeMS) -> None:
    spectrum = np.linspace(1.0, 2.0, 12)
    result = make_ms(**CLEAN, sources=[(-9 * CELL, 5 * CELL, spectrum)])
    truth = np.load(result.truth)
    assert (truth["x"][0], truth["y"][0]) == pytest.approx((32 + 9, 32 + 5))
    data, uvw = columns(result.ms, "DATA", "UVW")
    geometry = ImageGeometry(
        nx=64,
        ny=64,
        cell_x=CELL,
        cell_y=CELL,
        centre=Direction(ra=float(truth["phase_ra"]), dec=float(truth["phase_dec"])),
    )
    weight = np.ones(len(uvw))
    for channel in (0, 11):
        at_source, mirrored = direct_dirty(
            uvw, truth["freq"][channel], data[:, channel, 0], weight, geometry, [(41, 37), (23, 37)]
        )
        assert at_source == pytest.approx(spectrum[channel], abs=1e-6)
        assert mirrored < 0.7 * spectrum[channel]


def test_truth_positions_are_the_offsets_from_the_phase_centre(make_ms: MakeMS) -> None:
    from astropy.wcs import WCS

    truth = np.load(make_ms(**CLEAN).truth)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = np.degrees([truth["phase_ra"], truth["phase_dec"]])
    wcs.wcs.crpix = [33, 33]
    wcs.wcs.cdelt = [-20 / 3600, 20 / 3600]
    x, y = wcs.all_world2pix(np.degrees(truth["ra"]), np.degrees(truth["dec"]), 0)
    np.testing.assert_allclose(x, truth["x"], atol=1e-6)
    np.testing.assert_allclose(y, truth["y"], atol=1e-6)


def test_baselines_are_antenna1_minus_antenna2(make_ms: MakeMS) -> None:
    result = make_ms(**CLEAN)
    uvw, antenna1, antenna2 = columns(result.ms, "UVW", "ANTENNA1", "ANTENNA2")
    with table(f"{result.ms}::ANTENNA", ack=False) as antennas:
        position = antennas.getcol("POSITION")
    assert np.all(antenna1 < antenna2)
    length = np.linalg.norm(position[antenna1] - position[antenna2], axis=1)
    np.testing.assert_allclose(np.linalg.norm(uvw, axis=1), length, rtol=1e-9)
    # About transit, a baseline's u is its component to the east
    with table(str(result.ms), ack=False) as main:
        seconds = main.getcol("TIME")
    lon = np.deg2rad(-107.618283)
    east = (position[antenna1] - position[antenna2]) @ np.array([-np.sin(lon), np.cos(lon), 0.0])
    transit = np.abs(seconds - np.median(np.unique(seconds))) < 400
    # six minutes off transit turn the sky by 1.7 degrees
    np.testing.assert_allclose(uvw[transit, 0], east[transit], atol=0.05 * length.max())


def test_measured_noise_is_the_noise_asked_for_and_the_weights_are_its_inverse_square(make_ms: MakeMS) -> None:
    result = make_ms(sources=[], noise=0.2, weight_spectrum=True, npol=4)
    data, flag, weight, sigma, spectrum = columns(result.ms, "DATA", "FLAG", "WEIGHT", "SIGMA", "WEIGHT_SPECTRUM")
    np.testing.assert_allclose(weight, sigma**-2.0, rtol=1e-6)
    assert np.median(sigma) == pytest.approx(0.2, rel=0.1)
    normalised = (data * np.sqrt(spectrum))[~flag]
    # 40,000 samples: the standard deviation is known to 0.4 %
    assert normalised.real.std() == pytest.approx(1.0, abs=0.02)
    assert normalised.imag.std() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(spectrum[:, 0] * 2.25, spectrum[:, 5], rtol=1e-6)


def test_predicted_image_noise_is_that_of_the_unflagged_samples(make_ms: MakeMS) -> None:
    result = make_ms()
    truth = np.load(result.truth)
    flag, weight = columns(result.ms, "FLAG", "WEIGHT")
    good = ~flag.any(axis=2)
    np.testing.assert_array_equal(truth["nvis"], good.sum(0))
    assert np.isnan(truth["natural_rms"][2])
    others = np.arange(12) != 2
    expected = 1 / np.sqrt(2 * (good * weight[:, :1]).sum(0)[others])
    np.testing.assert_allclose(truth["natural_rms"][others], expected, rtol=1e-5)


def test_flags_cover_rows_samples_and_channels_and_hide_garbage(make_ms: MakeMS) -> None:
    result = make_ms(ntime=60, flag_channels=(4, 7))
    data, flag, flag_row = columns(result.ms, "DATA", "FLAG", "FLAG_ROW")
    assert flag[:, [4, 7]].all()
    assert flag[flag_row].all()
    assert np.all(data[flag] == 1e4)
    assert np.abs(data[~flag]).max() < 100
    assert 0.03 < flag_row.mean() < 0.08
    ordinary = flag[~flag_row][:, [0, 1, 2, 3]]
    assert ordinary[..., 1].mean() == pytest.approx(0.02, abs=0.006)
    assert np.any(ordinary[..., 0] & ~ordinary[..., 1]), "some samples have one correlation flagged only"
    assert result.summary["flagged_fraction"] == pytest.approx(flag.mean(), abs=1e-4)


def test_flagrow_only_leaves_the_flag_column_as_it_was(make_ms: MakeMS) -> None:
    data, flag, flag_row = columns(make_ms(flagrow_only=True).ms, "DATA", "FLAG", "FLAG_ROW")
    assert flag_row.any()
    assert flag[flag_row].mean() < 0.2
    assert np.all(data[flag_row] == 1e4)


def test_zero_fractions_flag_nothing(make_ms: MakeMS) -> None:
    flag, flag_row = columns(make_ms(**CLEAN).ms, "FLAG", "FLAG_ROW")
    assert not flag.any()
    assert not flag_row.any()


def test_same_seed_same_data_other_seed_other_noise(make_ms: MakeMS) -> None:
    first, again, other = (columns(make_ms(seed=seed).ms, "DATA", "FLAG", "WEIGHT") for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("npol", [1, 2, 4])
@pytest.mark.parametrize(("array", "codes"), [("vla-c", [5, 6, 7, 8]), ("alma", [9, 10, 11, 12])])
def test_correlations_follow_the_receivers(make_ms: MakeMS, array: str, codes: list[int], npol: int) -> None:
    result = make_ms(array=array, npol=npol, cell=0.5)
    with table(f"{result.ms}::POLARIZATION", ack=False) as polarization:
        written = list(polarization.getcell("CORR_TYPE", 0))
    assert written == {1: codes[:1], 2: [codes[0], codes[3]], 4: codes}[npol]
    (data,) = columns(result.ms, "DATA")
    assert data.shape == (900, 12, npol)


def test_falling_frequency_and_frame_are_written(make_ms: MakeMS) -> None:
    result = make_ms(chan_width=-10e3, frame="TOPO", rest_freq=1.4e9)
    with table(f"{result.ms}::SPECTRAL_WINDOW", ack=False) as window:
        frequency, width = window.getcell("CHAN_FREQ", 0), window.getcell("CHAN_WIDTH", 0)
        assert window.getcell("MEAS_FREQ_REF", 0) == 5
    np.testing.assert_allclose(np.diff(frequency), -10e3)
    np.testing.assert_allclose(width, -10e3)
    assert frequency[6] == 1.4e9
    with table(f"{result.ms}::SOURCE", ack=False) as source:
        assert source.getcell("REST_FREQUENCY", 0) == 1.4e9


def test_a_subset_of_antennas_spreads_over_the_whole_array() -> None:
    everything, names = antenna_positions("vla-d", 27)
    few, few_names = antenna_positions("vla-d", 6)
    assert {name[0] for name in few_names} == {"W", "E", "N"}
    np.testing.assert_array_equal(few, everything[[names.index(name) for name in few_names]])


@pytest.mark.parametrize("array", ARRAYS)
def test_no_two_antennas_touch(array: str) -> None:
    positions, names = antenna_positions(array, ARRAYS[array].antennas)
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    assert np.min(apart[np.triu_indices(len(names), 1)]) > ARRAYS[array].dish / 2
    assert len(set(names)) == len(names)


def test_nothing_is_replaced_unasked(make_ms: MakeMS) -> None:
    result = make_ms()
    parameters = {"out": result.ms, "ntime": 2, "antennas": 3, "nchan": 4}
    with pytest.raises(GpucubeError, match=r"sim\.ms exists already"):
        simulate_ms(SimulationParameters(**parameters))
    assert simulate_ms(SimulationParameters(**parameters, overwrite=True)).summary["rows"] == 6
    assert len(columns(result.ms, "TIME")[0]) == 6


def test_a_folder_that_is_no_measurement_set_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(GpucubeError, match="is no MeasurementSet"):
        simulate_ms(SimulationParameters(out=tmp_path, overwrite=True))
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_a_failed_simulation_leaves_nothing_behind(tmp_path: Path) -> None:
    parameters = SimulationParameters(out=tmp_path / "new" / "a.ms", nchan=4)
    with pytest.raises(
        GpucubeError, match=r"source 1, counted from 0: its flux has shape \(3,\), expected one number or 4"
    ):
        simulate_ms(parameters, sources=[(0, 0, 1.0), (0, 0, [1.0, 2.0, 3.0])])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nchann": 3}, "unknown parameter 'nchann': did you mean 'nchan'?"),
        ({"array": "vla"}, "`array='vla'`: expected 'vla-a', 'vla-b', 'vla-c', 'vla-d', 'alma' or 'meerkat'"),
        ({"antennas": 30}, "`antennas=30`: vla-d has 27"),
        ({"nchan": 4, "flag_channels": "1,4"}, "`flag_channels=4`: channels are counted from 0 to 3"),
        ({"chan_width": 0}, "`chan_width=0`: expected a width, negative for falling frequency"),
        ({"dec": -60}, "`dec=-60`: never rises at latitude 34.1, where EVLA is"),
        ({"cell": "10arcsex"}, "`cell='10arcsex'`: '10arcsex' has the unknown unit 'arcsex'"),
        ({"imsize": 8000, "cell": "1arcmin"}, "`cell=60`: 8000 pixels of this size are more than a radian of sky"),
    ],
)
def test_impossible_parameters_get_one_clear_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(GpucubeError) as caught:
        validated(SimulationParameters, {"out": "x.ms"} | wrong)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
