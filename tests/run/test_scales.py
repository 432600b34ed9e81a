"""Extended emission cleaned with several scales, from the parameters to the cube."""

from __future__ import annotations

from pathlib import Path

import jobs
import numpy as np
import pytest

import gpucube
from gpucube.simulate import SimulationParameters, simulate_ms

SIZE, CELL = 96, 15.0  # pixels, arcsec
FLUX = 8.0  # Jy


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth disc of 8 Jy, sampled more finely than the beam, in one of two channels."""
    step, radius = 10.0, 150.0  # arcsec
    grid = np.arange(-radius, radius + step, step)
    l, m = (axis.ravel() for axis in np.meshgrid(grid, grid))
    inside = np.hypot(l, m) < radius
    bright = (1 - np.hypot(l, m)[inside] ** 2 / radius**2) ** 2
    bright *= FLUX / bright.sum()
    arcsec = np.pi / 180 / 3600
    sky = [(a * arcsec, b * arcsec, [f, 0.0]) for a, b, f in zip(l[inside], m[inside], bright, strict=True)]
    out = tmp_path_factory.mktemp("disc") / "disc.ms"
    simulate_ms(SimulationParameters(out=out, array="vla-d", ntime=12, nchan=2, noise=0.1, imsize=SIZE, cell=CELL), sky)
    return out


def image(ms: Path, imagename: Path, **changes: object) -> gpucube.Result:
    chosen = {"imsize": SIZE, "cell": f"{CELL}arcsec", "niter": 20_000, "nsigma": 3, "deconvolver": "multiscale"}
    return jobs.image(ms, imagename, **(chosen | changes))


def test_an_extended_source_keeps_its_flux(disc, tmp_path):
    cubes = {name: image(disc, tmp_path / name, deconvolver=name) for name in ("multiscale", "hogbom")}
    several, points = (result.channels[0] for result in cubes.values())
    # the shortest baseline sees 98 % of the disc; Högbom stops at three sigma in each beam of the disc
    assert several.model_flux == pytest.approx(FLUX, rel=0.03)
    assert several.model_flux > points.model_flux
    assert several.iterations < points.iterations
    residual = {name: jobs.planes(result, "residual") for name, result in cubes.items()}
    assert residual["multiscale"][0].std() < residual["hogbom"][0].std()
    # the empty channel has no model worth the name
    assert abs(cubes["multiscale"].channels[1].model_flux) < 0.02 * FLUX


def test_the_cube_does_not_depend_on_workers_and_chunks(disc, tmp_path):
    one = image(disc, tmp_path / "one", workers=1, chunksize=-1)
    two = image(disc, tmp_path / "two", workers=2, chunksize=1)
    assert jobs.payload(one) == jobs.payload(two)


def test_scales_are_planned_from_the_beam_or_given(disc, tmp_path):
    parameters = {"imsize": SIZE, "cell": f"{CELL}arcsec", "niter": 100, "nsigma": 3, "deconvolver": "multiscale"}
    plan = gpucube.plan_cube(disc, tmp_path / "x", **parameters)
    # the beam of this array is some 50 arcsec, and a sixth of the image is 16 pixels
    assert plan.scales in ((0, 3, 9), (0, 4, 12))
    assert "scales     0, " in str(plan)
    assert gpucube.plan_cube(disc, tmp_path / "x", scales=[10, 0, 2.5], **parameters).scales == (0, 2.5, 10)
    hogbom = gpucube.plan_cube(disc, tmp_path / "x", **(parameters | {"deconvolver": "hogbom"}))
    assert hogbom.scales == ()
    assert hogbom.memory_predicted < plan.memory_predicted


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"scales": [0, 60]}, "a scale of 60 pixels is more than half of the image: choose smaller `scales`"),
        ({"scales": [-1]}, "sizes in pixels from 0"),
        ({"scales": "0,x"}, "sizes in pixels from 0"),
        ({"smallscalebias": 2}, "`smallscalebias=2`"),
    ],
)
def test_impossible_scales_are_refused_in_one_line(changes, line, disc, tmp_path):
    with pytest.raises(gpucube.GpucubeError) as refusal:
        gpucube.image_cube(
            disc, tmp_path / "x", imsize=SIZE, cell=f"{CELL}arcsec", **({"deconvolver": "multiscale"} | changes)
        )
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_scales_without_multiscale_give_a_warning(disc, tmp_path):
    with pytest.warns(UserWarning, match="`scales` is not used, because it belongs to `deconvolver='multiscale'`"):
        image(disc, tmp_path / "x", deconvolver="hogbom", scales=[0, 3])
