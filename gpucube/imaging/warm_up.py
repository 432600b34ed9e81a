"""Compile the loops before imaging begins: on the first run this takes seconds, which are charged to no channel."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.devices.base import DeviceKind, ImagingSettings, MinorCycle, Restoring
from gpucube.devices.choice import Devices

PIXELS, SAMPLES = 32, 200


def warm_up(kind: DeviceKind, settings: ImagingSettings) -> None:
    """Image an invented plane of a few pixels on a device of this process, and discard the results.

    An error here would also occur in the imaging, and is reported there.
    """
    small = replace(
        settings,
        geometry=replace(settings.geometry, nx=PIXELS, ny=PIXELS, cell_x=ARCSEC, cell_y=ARCSEC),
        samples=SAMPLES,
        taper=(),
        w_max=0.0,
    )
    rng = np.random.default_rng(1)
    uvw = rng.uniform(-0.3, 0.3, (SAMPLES, 3)) / np.array([ARCSEC, ARCSEC, np.inf]) * LIGHT_SPEED / 1e9
    uvw.flags.writeable = False  # as in the store
    samples = Samples(
        uvw=uvw,
        frequency=1e9,
        vis=np.ones(SAMPLES, np.complex64),
        weight=np.ones(SAMPLES, np.float32),
        order=np.arange(SAMPLES, dtype=np.int32),
    )
    with contextlib.suppress(Exception), Devices(kind, kind.lanes) as devices, devices.lend(small) as device:
        planes = device.begin([samples], [None])
        device.measure(planes)
        device.make_psf(planes, wide=True)
        ((beam, _),) = device.beams(planes)
        device.minor(planes, [MinorCycle(threshold=0.0, max_iterations=3, gain=0.1)])
        device.major(planes)
        device.keep_model(planes)
        (found,) = device.finish(planes, ("model", "residual"), [Restoring(beam=beam, smooth=beam)])
        device.restore(found.products["model"][0], found.products["residual"][0], Restoring(beam=beam))
        device.release(planes)
