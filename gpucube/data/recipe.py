"""The recipe of a visibility store: everything that determines its bits, so that a later run knows whether it may use it.

In: a `Selection`, and the state of the files of its MeasurementSets. Out: a dict of plain JSON types, whose keys are words for a
message. Imaging parameters have no part in it: a store holds uvw in metres and the weights of the data, so size and pixels of
the image, imaging weights, masks and cleaning may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.data.selection import Selection, Source
from gpucube.version import __version__

Recipe = dict[str, Any]
"""``"shape"`` of the cube, ``"version"`` of gpucube, and ``"sources"``: for each of them its aspects."""

REACH, END = 2.5, 1.25
"""Channels of the data, on either side of a channel of the cube, that interpolation may look at, and within which it matters
that the data end there."""


def make_recipe(selection: Selection, contents: Mapping[str, str]) -> Recipe:
    """Write down what a store is made from.

    Parameters
    ----------
    selection : Selection
    contents : mapping
        Path of each MeasurementSet -> digest of the state of its files. The path itself does not count: files may be moved.
    """
    return {
        "version": __version__,
        "shape": list(selection.shape),
        "sources": [_aspects(source, contents[source.path]) for source in selection.sources],
    }


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where a store finds its channels in another one."""

    sources: tuple[int, ...]  # number of the partition there, for each of its own
    channels: tuple[int, ...]  # number of the channel there, for each of its own; -1 for one without samples


def part_of(made: Recipe, wanted: Recipe) -> Part | None:
    """Find the channels of one recipe in another. None unless each of them is there, made from the same."""
    if made["version"] != wanted["version"] or made["shape"][:2] != wanted["shape"][:2]:
        return None
    there = {of: channel for channel, of in enumerate(_by_channel(made)) if of} | {(): -1}
    channels = [there.get(of) for of in _by_channel(wanted)]
    common = [_common(source) for source in made["sources"]]
    found = tuple(channel for channel in channels if channel is not None)
    if len(found) < len(channels):
        return None
    return Part(sources=tuple(common.index(_common(source)) for source in wanted["sources"]), channels=found)


def _by_channel(recipe: Recipe) -> list[tuple[str, ...]]:
    """For each channel of the cube, what it is made from."""
    found: list[tuple[str, ...]] = [()] * recipe["shape"][2]
    for source in recipe["sources"]:
        common = _common(source)
        for channel, digest in source["the channels"]:
            found[channel] += (common, digest)
    return found


def _common(source: dict[str, Any]) -> str:
    """All aspects of a source but its channels."""
    return json.dumps(source | {"the channels": []})


def difference(made: Recipe, wanted: Recipe) -> str:
    """Say what differs between two recipes, as in "the phase centre and the rows differ". Empty if nothing does."""
    if made["version"] != wanted["version"]:
        return f"gpucube {made['version']} made them"
    for source in wanted["sources"]:
        unlike = [sorted(name for name in source if other[name] != source[name]) for other in made["sources"]]
        if names := min(unlike, key=len, default=[]):
            return f"{' and '.join(names)} differ" if len(names) > 1 else f"{names[0]} differ"
    return "" if made == wanted else "the channels of the cube differ"


def _aspects(source: Source, contents: str) -> dict[str, Any]:
    """Everything about one source that its samples depend on, by what to call it in a message."""
    rows, how, fit = source.rows, source.regridding, source.continuum
    return {
        "the files of the MeasurementSet": contents,
        "the data column": [source.column, source.weight],
        "the selected rows": _digest(rows.number, rows.cross, rows.keep),
        "the frames of frequency": _digest(rows.factor),
        "the Stokes parameters": [repr(combination) for combination in source.combinations],
        "the phase centres": _digest(source.rotation, source.rotation_time, source.pointing),
        "the fits of the continuum": "" if fit is None else _digest(*vars(fit).values()),
        "the interpolations": [] if how is None else [how.method, how.rises, how.spacing],
        "the channels": [[int(k), digest] for k, digest in zip(source.output, _channels(source), strict=True)],
    }


def _channels(source: Source) -> Iterator[str]:
    """For each channel of the cube, a digest of the channels of the data that it is made from."""
    of_data, how = source.channel_map, source.regridding
    if how is None:
        for slot, frequency in enumerate(of_data.frequency):
            yield _digest(frequency, of_data.members[of_data.offsets[slot] : of_data.offsets[slot + 1]])
        return
    least, largest = source.rows.factor_span
    number, frequency = of_data.members[how.selected], how.frequency[how.selected]
    for centre, width in zip(how.centre, how.width, strict=True):
        low, high = (centre - width / 2) / largest, (centre + width / 2) / least
        near = number[(frequency > low - REACH * how.spacing) & (frequency < high + REACH * how.spacing)]
        first, last = frequency.min(initial=np.inf), frequency.max(initial=0)
        begins, ends = first > low - END * how.spacing, last < high + END * how.spacing
        yield _digest(centre, width, near, first if begins else None, last if ends else None)


def _digest(*things: Any) -> str:
    """A digest of numbers, arrays and None."""
    digest = hashlib.blake2b(digest_size=8)
    for thing in things:
        array = np.ascontiguousarray([] if thing is None else thing)
        digest.update(f"{thing is None} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
