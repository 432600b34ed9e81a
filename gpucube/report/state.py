"""The state of a run, as it can be read from disk while the run goes on, after it was cut off, or when it has finished.

In: an imagename for which there is a journal (the run was cut off, or goes on) or a summary (it has finished). Out: `Run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpucube.errors import GpucubeError
from gpucube.output.journal import is_locked, read_journal
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord
from gpucube.output.summary import Summary
from gpucube.schema.parameters import Parameters


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, finished or not.

    Attributes
    ----------
    imagename : str
        What the names of its products begin with.
    nchan : int
        Number of channels of the cube.
    records : sequence of ChannelRecord
        The channels that are safe on disk, in order of channel.
    parameters : dict
        Plain values by name.
    summary : Summary or None
        None if the run has not finished.
    running : bool
        True if it goes on at this moment.
    """

    imagename: str
    nchan: int
    records: Sequence[ChannelRecord]
    parameters: dict[str, Any]
    summary: Summary | None = None
    running: bool = False


def read_run(imagename: str) -> Run:
    """Read what a run has left on disk.

    Raises
    ------
    GpucubeError
        There is no such run, it still reads its data, or its files are damaged.
    """
    # In this order, because the run may end meanwhile: the summary is its last file, and the first that a new run removes
    running = is_locked(imagename)
    begun, summary = read_journal(imagename), Summary.read(imagename)
    if summary is not None:
        return Run(
            imagename=imagename,
            nchan=len(summary.channels),
            records=summary.channels,
            parameters=summary.parameters,
            summary=summary,
        )
    if begun is not None:
        return Run(
            imagename=imagename,
            nchan=begun.nchan,
            records=begun.records,
            parameters={name: value for name, value in begun.fingerprint.items() if name in Parameters.model_fields},
            running=running,
        )
    if running:
        raise GpucubeError(f"the run on {imagename} is still reading its data: try again when it images")
    paths = RunPaths(imagename)
    raise GpucubeError(
        f"no run of that name: found neither {paths.summary} nor {paths.journal}; give the imagename of the run"
    )
