"""Lost data and unlike beams are reported at the end of a run: once as a warning, and in the summary."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from jobs import altered, column, image, tree

import gpucube
from gpucube.cli import main
from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.device import CpuDevice
from gpucube.devices.cpu.kind import CpuKind

FREQUENCY = 1420.405752e6 + (np.arange(12) - 6) * 15625.0


def image_and_warnings(vis: Path, imagename: Path, **changes: Any) -> tuple[gpucube.Result, list[str]]:
    """The result and the texts of all warnings; nothing is cleaned unless `changes` say so."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = image(vis, imagename, **({"niter": 0} | changes))
    texts = [str(warning.message) for warning in said]
    assert result.summary["warnings"] == texts
    return result, texts


def flag_long_baselines(channels: list[int], metres: float = 150.0) -> Any:
    """Leave only short baselines in these channels."""

    def edit(main_table: Any) -> None:
        flag, uvw = main_table.getcol("FLAG"), main_table.getcol("UVW")
        for channel in channels:
            flag[np.hypot(uvw[:, 0], uvw[:, 1]) > metres, channel] = True
        main_table.putcol("FLAG", flag)

    return edit


@pytest.mark.parametrize("gridder", ["standard", "wgridder"])
def test_samples_off_the_grid_are_counted_and_warned_of(gridder: str, tiny_ms: Any, tmp_path: Path) -> None:
    cell = 40.0
    result, said = image_and_warnings(tiny_ms.ms, tmp_path / "cube", cell=f"{cell}arcsec", gridder=gridder)
    uvw, good = column(tiny_ms.ms, "UVW"), ~column(tiny_ms.ms, "FLAG").any(-1)
    # a grid of cells 1 / (N cell) that reaches to N / 2 of them
    most = 0.5 / (cell * ARCSEC)
    outside = (np.abs(uvw[:, None, :2]) * FREQUENCY[:, None] / LIGHT_SPEED >= most).any(-1)
    assert [r.visibilities_off_grid for r in result.channels] == (outside & good).sum(0).tolist()
    assert [r.visibilities for r in result.channels] == (~outside & good).sum(0).tolist()
    lost, total = int((outside & good).sum()), int(good.sum())
    # before the run the plan says that the cell is coarse, after the run what was lost
    assert len(said) == 2 and said[0].startswith("the `cell` of 40 arcsec is too coarse for the longest ")
    said = said[1:]
    assert said[0].startswith(f"{lost} of {total} samples ({100 * lost / total:.1f} %) are not imaged")
    # the cell that the warning names keeps all of them
    named = re.search(r"at most ([\d.]+) arcsec", said[0])
    assert named is not None
    # the longest baseline may lie along u or v, or between them: up to sqrt(2) below the very largest cell
    largest = 0.5 / (np.hypot(uvw[:, 0], uvw[:, 1]).max() * FREQUENCY.max() / LIGHT_SPEED) / ARCSEC
    assert 0.98 * largest < float(named[1]) < largest
    again, quiet = image_and_warnings(tiny_ms.ms, tmp_path / "fine", cell=f"{named[1]}arcsec", gridder=gridder)
    assert quiet == [] and sum(r.visibilities_off_grid for r in again.channels) == 0
    assert sum(r.visibilities for r in again.channels) == total


def test_both_stokes_parameters_lose_their_samples(tiny_ms: Any, tmp_path: Path) -> None:
    one, _ = image_and_warnings(tiny_ms.ms, tmp_path / "one", cell="60arcsec")
    two, _ = image_and_warnings(tiny_ms.ms, tmp_path / "two", cell="60arcsec", stokes="IV")
    assert [r.visibilities_off_grid for r in two.channels] == [2 * r.visibilities_off_grid for r in one.channels]
    assert one.channels[5].visibilities_off_grid > 0


@pytest.mark.parametrize("restoringbeam", ["", "common"])
def test_a_cell_that_leaves_no_sample_is_refused_and_leaves_nothing(
    restoringbeam: str, tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--imsize 32 --cell 5000arcsec --quiet --restoringbeam={restoringbeam}".split()
    assert main(["image", str(tiny_ms.ms), "--imagename", str(tmp_path / "out" / "cube"), *options]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"gpucube: error: no data are left: .* choose a --cell of at most [\d.]+ arcsec\n", said), said
    assert tree(tmp_path) == []


def test_a_common_beam_made_by_one_channel_names_it(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, flag_long_baselines([0]))
    result, said = image_and_warnings(ms, tmp_path / "cube", restoringbeam="common")
    areas = [r.beam["bmaj_arcsec"] * r.beam["bmin_arcsec"] for r in result.channels if r.beam]
    assert len(said) == 1 and "because of channels 0, whose" in said[0]
    assert f"up to {max(areas) / np.median(areas):.1f} times the median area" in said[0]
    # without it, or with each channel's own beam, there is nothing to say
    assert image_and_warnings(ms, tmp_path / "rest", restoringbeam="common", start=1)[1] == []
    assert image_and_warnings(ms, tmp_path / "own", restoringbeam="")[1] == []


def test_a_given_beam_smaller_than_the_own_of_some_channels_names_them(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, flag_long_baselines([0, 7]))
    some = image_and_warnings(ms, tmp_path / "some", restoringbeam="100arcsec")[1]
    assert len(some) == 1
    assert some[0].startswith("the beam of 100 x 100 arcsec does not contain the fitted beam of channels 0, 7 (")
    every = image_and_warnings(ms, tmp_path / "every", restoringbeam="25arcsec")[1]
    assert len(every) == 1 and "channels 0~1, 3~11 (" in every[0]  # channel 2 has no data


def test_a_beam_wider_than_the_image_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    said = image_and_warnings(tiny_ms.ms, tmp_path / "cube", restoringbeam="1300arcsec")[1]
    assert said == ["the beam of 1300 x 1300 arcsec is wider than the image, 1280 arcsec"]


def test_a_threshold_above_every_peak_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    """1 Jy is the brightest source; the user meant 3 mJy."""
    result, said = image_and_warnings(tiny_ms.ms, tmp_path / "cube", niter=100, nsigma=0, threshold=3)
    peak = max(record.peak_residual for record in result.channels if record.peak_residual is not None)
    assert said == [
        f"nothing was cleaned: `threshold` is 3 Jy/beam, and no channel has a peak above {peak:.3g} Jy/beam"
    ]
    settings = {"niter": 100, "nsigma": 0, "threshold": 0.9 * peak}
    assert image_and_warnings(tiny_ms.ms, tmp_path / "deeper", **settings)[1] == []


def test_limits_without_iterations_give_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    assert image_and_warnings(tiny_ms.ms, tmp_path / "cube", nsigma=3)[1] == [
        "`niter=0` makes the dirty cube and does not use `nsigma=3`: give `niter` to clean"
    ]


def test_a_taper_that_leaves_no_weight_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    result, said = image_and_warnings(tiny_ms.ms, tmp_path / "cube", uvtaper="0.001lambda")
    assert any(text.startswith("channels 0~1, 3~11 are blank") and "`uvtaper` is too narrow" in text for text in said)
    assert all(r.sum_weights == 0 and (r.visibilities > 0) == (r.channel != 2) for r in result.channels)


def test_a_main_lobe_wider_than_the_image_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    """The lobe has 55 by 41 arcsec. Channel 2 has no data."""
    result, said = image_and_warnings(tiny_ms.ms, tmp_path / "cut", cell="1arcsec", imsize=32)
    (warning,) = (text for text in said if "main lobe" in text)
    assert "in channels 0~1, 3~11: their beams are cut to its width of 32 arcsec" in warning
    assert result.channels[0].beam["bmaj_arcsec"] == pytest.approx(32.0)
    _, said = image_and_warnings(tiny_ms.ms, tmp_path / "whole", cell="1arcsec", imsize=128)
    assert not any("main lobe" in text for text in said)


class FailingDevice(CpuDevice):
    """Has no memory for the channel at one frequency."""

    def begin(self, samples: Any, masks: Any) -> Any:
        if any(s is not None and s.frequency == FREQUENCY[5] for s in samples):
            raise MemoryError("out of device memory")
        return super().begin(samples, masks)


class FailingKind(CpuKind):
    def make(self, settings: Any, lanes: int = 1) -> FailingDevice:
        return FailingDevice(settings)


def test_channels_that_fail_give_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    result, said = image_and_warnings(tiny_ms.ms, tmp_path / "cube", hardware=Hardware(kind=FailingKind()), workers=1)
    assert result.failed_channels == [5]
    assert said == ["failed channels, which are blank: 5 (MemoryError: out of device memory)"]


def test_a_warning_gives_the_share_of_channels_that_averages_lack(tiny_ms: Any, tmp_path: Path) -> None:
    def edit(main_table: Any) -> None:
        flag = main_table.getcol("FLAG")
        flag[:, 4:7] = True
        main_table.putcol("FLAG", flag)

    result, said = image_and_warnings(altered(tiny_ms.ms, tmp_path, edit), tmp_path / "cube", width=4)
    assert [r.lacking_fraction for r in result.channels] == pytest.approx([0.25, 0.75, 0.0], abs=0.03)
    assert [c["lacking_fraction"] for c in result.summary["channels"]] == [r.lacking_fraction for r in result.channels]
    assert len(said) == 1 and said[0].startswith(
        "up to 75.0 % of the channels that are averaged into one are flagged or missing (channels 0~1 of the cube)"
    )
    _, said = image_and_warnings(tiny_ms.ms, tmp_path / "single")
    assert said == []


def mask(folder: Path, allowed: np.ndarray) -> Path:
    fits.PrimaryHDU(allowed.astype(np.uint8)).writeto(folder / "mask.fits", overwrite=True)
    return folder / "mask.fits"


def test_a_mask_that_allows_nothing_gives_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    result, said = image_and_warnings(
        tiny_ms.ms, tmp_path / "cube", niter=100, nsigma=3, mask=mask(tmp_path, np.zeros((64, 64)))
    )
    assert said == ["nothing was cleaned: `mask` allows no pixel in any channel that has data"]
    assert all(record.iterations == 0 for record in result.channels)
    half = np.arange(12)[:, None, None] * np.ones((64, 64)) > 5
    assert image_and_warnings(tiny_ms.ms, tmp_path / "half", niter=100, nsigma=3, mask=mask(tmp_path, half))[1] == []
