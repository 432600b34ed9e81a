"""What a finished run tells about itself: `OUT.summary.json`.

In: what was asked for, measured and found, one record for each channel. Out: the same as JSON, written last of all and whole or
not at all, so that its being there says that the run has come to its end. What is read again is checked against `Summary`:
the file may have been edited, cut short, or made by another program.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from gpucube.errors import GpucubeError
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord


class Summary(BaseModel):
    """What the file holds.

    Attributes
    ----------
    parameters, fingerprint : dict
        What was asked for, and what the cube's bits depend on.
    versions, products : dict of str
        Of what took part; paths.
    plan : dict
        ``chunksize chunks workers device``.
    ms_bytes_selected, ms_bytes_read : int
        Bytes of the columns that are needed, and of what was read.
    memory_predicted, memory_peak, device_memory_predicted, device_memory_peak : int
        Bytes.
    resumed_channels : int
        Taken over from a run that was cut off.
    gridder : str
        ``"standard"`` or ``"wgridder"``, whichever was used.
    stage_seconds : dict of float
        ``plan read image finish``.
    wall_seconds : float
    warnings : list of str
    channels : list of ChannelRecord
    """

    parameters: dict[str, Any]
    fingerprint: dict[str, Any]
    versions: dict[str, str]
    plan: dict[str, Any]
    products: dict[str, str]
    ms_bytes_selected: int
    memory_predicted: int
    device_memory_predicted: int
    resumed_channels: int
    ms_bytes_read: int
    memory_peak: int
    device_memory_peak: int
    gridder: str
    stage_seconds: dict[str, float]
    wall_seconds: float
    warnings: list[str]
    channels: list[ChannelRecord]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if [record.channel for record in self.channels] != list(range(len(self.channels))):
            raise ValueError("the channels are not numbered from 0 on")
        return self


def read_summary(imagename: str) -> Summary | None:
    """The summary of an imagename; None if there is none.

    Raises
    ------
    GpucubeError
        It cannot be read, or is not what gpucube writes.
    """
    path = RunPaths(imagename).summary
    try:
        with open(path, "rb") as file:
            return Summary.model_validate_json(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GpucubeError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise GpucubeError(f"{path} is damaged ({where}: {first['msg']})") from None
