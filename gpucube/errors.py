"""The exceptions a user is meant to read.

Every check at the door (parameters, files, resources) raises `GpucubeError` with one line that names
what is wrong, where, and what would be right. The command line prints that line and exits with status 2;
any other exception is a defect of gpucube and keeps its traceback.
"""

from __future__ import annotations


class GpucubeError(Exception):
    """A user's mistake or an impossible job, told in one line."""


class DeviceLost(GpucubeError):
    """A device that no longer works in this process: nothing but a new process helps."""


class Interrupted(KeyboardInterrupt):
    """A run that was interrupted, with one line that says what is safe and how to go on."""
