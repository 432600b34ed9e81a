"""Physical constants and conversion factors that every room uses."""

from __future__ import annotations

import math

LIGHT_SPEED = 299_792_458.0
"""Metres per second."""

DAY = 86400.0
"""Seconds in a day of UTC without a leap second."""

ARCSEC = math.pi / 180 / 3600
"""One arcsecond in radians."""

ARCSEC_PER_RADIAN = 1 / ARCSEC
"""Arcseconds in one radian. Dividing by it and multiplying by `ARCSEC` can differ in the last bit."""
