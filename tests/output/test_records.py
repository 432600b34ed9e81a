"""Records: what a channel reports follows from its planes, and a line of JSON gives the same record back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from records import channel_record

from gpucube.output.records import ChannelRecord, PlaneRecord, StopCode

BEAM = {"bmaj_arcsec": 40.1, "bmin_arcsec": 1 / 3, "bpa_deg": -12.0}
STOKES_I = PlaneRecord(
    stop_code=StopCode.NSIGMA, iterations=20, major_cycles=3, peak_residual=0.1, noise=0.05, limit=0.15, model_flux=2.0,
    beam=BEAM, sum_weights=7.0, visibilities=100, flagged_fraction=0.2, seconds={"minor": 1.0, "grid": 0.5},
)  # fmt: skip
STOKES_V = PlaneRecord(
    stop_code=StopCode.ITERATION_LIMIT, iterations=50, major_cycles=3, peak_residual=0.3, noise=0.06, limit=0.18,
    model_flux=-1.0, beam={}, sum_weights=9.0, visibilities=90, flagged_fraction=0.3, seconds={"minor": 2.0, "write": 1.0},
    retried=True,
)  # fmt: skip


def test_a_channel_sums_its_planes_and_stops_as_the_one_that_iterated_longest() -> None:
    record = ChannelRecord(channel=3, frequency_hz=1e9, planes={"I": STOKES_I, "V": STOKES_V})
    assert (record.iterations, record.major_cycles, record.visibilities) == (70, 6, 190)
    assert record.seconds == {"minor": 3.0, "grid": 0.5, "write": 1.0}
    assert (record.stop_code, record.stop_reason) == (1, "iteration limit")
    assert (record.peak_residual, record.noise, record.limit, record.flagged_fraction) == (0.3, 0.06, 0.18, 0.3)
    assert (record.model_flux, record.beam, record.sum_weights) == (2.0, BEAM, 7.0)
    assert record.retried


def test_major_cycles_count_more_than_iterations_and_the_first_plane_wins_a_tie() -> None:
    longer = replace(STOKES_I, major_cycles=4)
    assert ChannelRecord(channel=0, frequency_hz=1e9, planes={"I": longer, "V": STOKES_V}).stop_code == StopCode.NSIGMA
    failed = PlaneRecord(stop_code=StopCode.FAILED)
    tie = ChannelRecord(channel=0, frequency_hz=1e9, planes={"I": failed, "V": PlaneRecord()})
    assert tie.stop_code == StopCode.FAILED


@pytest.mark.parametrize("noise", [0.1 + 0.2, 5e-324, math.inf, None])
def test_a_line_of_json_gives_a_bit_identical_record(noise: float | None) -> None:
    plane = replace(STOKES_I, noise=noise)
    record = ChannelRecord(
        channel=3, frequency_hz=1.42e9 + 1 / 3, planes={"I": plane, "V": STOKES_V}, checksums={"image": ["0a", "1b"]},
        chunk=2, worker="tcp://host:1", device="cpu",
    )  # fmt: skip
    assert ChannelRecord.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()


def test_the_file_says_also_what_follows_from_the_planes() -> None:
    found = json.loads(ChannelRecord(channel=3, frequency_hz=1e9, planes={"I": STOKES_I, "V": STOKES_V}).to_json())
    assert (found["iterations"], found["stop_code"], found["stop_reason"]) == (70, 1, "iteration limit")
    assert found["planes"]["I"]["stop_reason"] == "n-sigma threshold"
    assert set(found["planes"]["I"]) < set(found)


@pytest.mark.parametrize("planes", ["{}", '{"I": {"noise": "x"}}', '{"I": {"stop_code": 99}}', "null"])
def test_a_record_with_impossible_planes_is_refused(planes: str) -> None:
    with pytest.raises(ValueError, match="planes"):
        ChannelRecord.from_json(f'{{"channel": 0, "frequency_hz": 1e9, "planes": {planes}}}')


def test_the_stop_codes_are_tcleans_and_two_of_our_own() -> None:
    """CASA documentation, "Synthesis imaging: stopping criteria": 1 to 9 in this order."""
    words = ["iteration", "threshold", "forced", "no change", "grew", "minimum", "zero mask", "n-sigma", "major-cycle"]
    assert [code.value for code in StopCode] == list(range(1, 12))
    for number, word in enumerate(words, 1):
        assert word in StopCode(number).reason
    assert channel_record(0).stop_reason == "no data"
