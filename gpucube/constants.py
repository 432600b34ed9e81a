"""Physical constants and units that every room uses."""

from __future__ import annotations

LIGHT_SPEED = 299_792_458.0
"""Metres per second."""
