"""The scratch folder of a run: it is made for an imagename, kept for `resume`, and removed.

In: the partitions of a new store, and the imagename that it is for. Out: a folder with one file for every array of a
partition, and two small files. One names the owner of the folder, so that no other folder is ever removed. The other is
written last and contains what a resumed run needs to know about the store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpucube import disk
from gpucube.data.store import Partition, VisibilityStore
from gpucube.errors import GpucubeError
from gpucube.text import size_text

OWNER_FILE = "gpucube-scratch"
"""Says which imagename a scratch folder belongs to."""

_STATE_FILE = "store.json"

_STATE_FORMAT = 3
"""Changes with the content of the state file. A file in another format is ignored."""


def allocate(partitions: Sequence[Partition], owner: str = "") -> None:
    """Make the scratch folder and the empty arrays of its partitions, on real disk blocks.

    Parameters
    ----------
    partitions : sequence of Partition
        At least one; all of one folder.
    owner : str
        The imagename that the folder is for.

    Raises
    ------
    GpucubeError
        The folder exists or cannot be made, or the disk is too small.
    """
    folder = partitions[0].folder
    try:
        disk.make_folder(folder)
    except FileExistsError:
        raise GpucubeError(
            f"scratch folder {folder} already exists: remove it if no other run uses it, or name another with `scratch`"
        ) from None
    except OSError as error:
        raise GpucubeError(f"scratch folder {folder} cannot be made: {error.strerror}") from None
    try:
        disk.check_space(folder, sum(p.nbytes() for p in partitions), "the visibility store needs", "scratch")
        disk.write_whole(os.path.join(folder, OWNER_FILE), os.fsencode(os.path.abspath(owner)))
        for p in partitions:
            for name, size in p.sizes().items():
                with disk.explain(f"cannot reserve {size_text(size)} for {p.path(name)}"):
                    disk.reserve(p.path(name), size)
    except BaseException:
        disk.remove_tree(folder)
        raise


def belongs_to(folder: str, owner: str) -> bool:
    """Return True if a folder is the scratch folder of an imagename."""
    try:
        with disk.open_to_read(os.path.join(folder, OWNER_FILE)) as file:
            return os.fsdecode(file.read()) == os.path.abspath(owner)
    except OSError:
        return False


def clear_leftover(folder: str, owner: str) -> None:
    """Remove the scratch folder of an earlier run of the same imagename, whose lock must be held. Others stay."""
    if belongs_to(folder, owner):
        disk.remove_tree(folder)


def save_state(store: VisibilityStore, identity: dict[str, Any]) -> None:
    """Write down that the store is complete, and what INGEST learnt about it.

    Parameters
    ----------
    store : VisibilityStore
    identity : dict
        Fingerprint of the run, plain JSON.
    """
    state = {
        "format": _STATE_FORMAT,
        "identity": identity,
        "boot": _boot_id(),
        "partitions": [asdict(p) for p in store.partitions],
        "counts": store.counts.tolist(),
        "selected": store.selected.tolist(),
        "power": store.power.tolist(),
        "ms_bytes_read": store.ms_bytes_read,
        "lacking": None if store.lacking is None else store.lacking.tolist(),
        "warnings": store.warnings,
    }
    disk.write_whole(os.path.join(store.folder, _STATE_FILE), json.dumps(state))


def load_state(folder: str, identity: dict[str, Any]) -> VisibilityStore | None:
    """Return the store of an earlier run with the same identity; None if there is none, or it is not complete."""
    try:
        with disk.open_to_read(os.path.join(folder, _STATE_FILE)) as file:
            state = json.load(file)
        if (state["format"], state["identity"], state["boot"]) != (_STATE_FORMAT, identity, _boot_id()):
            return None
        store = VisibilityStore(
            folder=folder,
            partitions=tuple(
                Partition(**(p | {"output": tuple(p["output"]), "frequency": tuple(p["frequency"])}))
                for p in state["partitions"]
            ),
            counts=np.array(state["counts"], np.int64),
            selected=np.array(state["selected"], np.int64),
            power=np.array(state["power"], float),
            ms_bytes_read=int(state["ms_bytes_read"]),
            lacking=None if state["lacking"] is None else np.array(state["lacking"], float),
            warnings=tuple(state["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if store.exists() else None


def _boot_id() -> str:
    """Changes when the machine restarts, which may lose what was not synced: the arrays of a store are not."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
