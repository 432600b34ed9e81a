"""The exceptions whose messages are for users.

Every check of parameters, files and resources raises `GpucubeError` with one line that says what is wrong, where, and
what would be right. Parameters in such a line are written as Python in backticks, e.g. `` `overwrite=True` ``; the command
line prints them as its options and exits with status 2. Any other exception is a defect of gpucube and keeps its traceback,
which the command line writes to a file.

    GpucubeError            a mistake of the user, or a job that cannot be done
      AccuracyError         no gridding kernel reaches the accuracy asked for in this precision
      DeviceLost            a GPU that no longer works in this process
    Interrupted             Ctrl-C or SIGTERM; the message says what is safe
"""

from __future__ import annotations


class GpucubeError(Exception):
    """A mistake of the user, or a job that cannot be done, in one line."""


class AccuracyError(GpucubeError):
    """No gridding kernel reaches the accuracy that is asked for; a higher precision may."""


class DeviceLost(GpucubeError):
    """A device no longer works in this process. Only a new process can recover."""


class Interrupted(KeyboardInterrupt):
    """The run was interrupted. The message says what is safe on disk and how to continue."""
