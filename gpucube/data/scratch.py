"""The folder of a visibility store: it is made for an imagename, kept for `resume`, and removed, or kept for later runs.

In: the partitions of a new store, and the imagename that it is for. Out: a folder with one file for every array of a
partition, and two small files. One names the owner of the folder, so that no other folder is ever removed. The other is
written last and contains what another run needs to know about the store: its recipe, and what INGEST learnt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from gpucube import disk
from gpucube.data.recipe import Part, Recipe, difference, part_of
from gpucube.data.store import Partition, VisibilityStore
from gpucube.errors import GpucubeError
from gpucube.text import size_text

OWNER_FILE = "gpucube-scratch"
"""Says which imagename a scratch folder belongs to."""

STATE_FILE = "store.json"

_STATE_FORMAT = 4
"""Changes with the content of the state file. A file in another format is ignored."""


def make_folder(folder: str, owner: str = "") -> None:
    """Make an empty folder for an imagename; GpucubeError if it exists or cannot be made."""
    try:
        disk.make_folder(folder)
    except FileExistsError:
        raise GpucubeError(
            f"scratch folder {folder} already exists: remove it if no other run uses it, or name another with `scratch`"
        ) from None
    except OSError as error:
        raise GpucubeError(f"scratch folder {folder} cannot be made: {error.strerror}") from None
    try:
        # to sync this file takes as long as reading a block; without it the user has to remove what a power failure leaves
        disk.write_whole(os.path.join(folder, OWNER_FILE), os.fsencode(os.path.abspath(owner)), synced=False)
    except BaseException:
        disk.remove_tree(folder)
        raise


def allocate(partitions: Sequence[Partition], owner: str = "") -> None:
    """Make the folder of a store and the empty arrays of its partitions, on real disk blocks.

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
    make_folder(folder, owner)
    try:
        disk.check_space(folder, sum(p.nbytes() for p in partitions), "the visibility store needs", "scratch")
        for p in partitions:
            for name, size in p.sizes().items():
                with disk.explain(f"cannot reserve {size_text(size)} for {p.path(name)}"):
                    disk.reserve(p.path(name), size)
    except BaseException:
        disk.remove_tree(folder)
        raise


def belongs_to(folder: str, owner: str = "") -> bool:
    """Return True if a folder is the scratch folder of an imagename, or of any if no owner is given."""
    try:
        with disk.open_to_read(os.path.join(folder, OWNER_FILE)) as file:
            return not owner or os.fsdecode(file.read()) == os.path.abspath(owner)
    except OSError:
        return False


def clear_leftover(folder: str, owner: str = "") -> None:
    """Remove the scratch folder of an earlier run of the same imagename, whose lock must be held. Others stay."""
    if belongs_to(folder, owner):
        disk.remove_tree(folder)


def save_state(store: VisibilityStore, recipe: Recipe) -> None:
    """Write down that the store is complete, and what INGEST learnt about it."""
    state = {
        "format": _STATE_FORMAT,
        "recipe": recipe,
        "safe": store.safe,
        "boot": _boot_id(),
        "partitions": [asdict(p) for p in store.partitions],
        "counts": store.counts.tolist(),
        "selected": store.selected.tolist(),
        "power": store.power.tolist(),
        "ms_bytes_read": store.ms_bytes_read,
        "lacking": None if store.lacking is None else store.lacking.tolist(),
        "warnings": store.warnings,
    }
    disk.write_whole(os.path.join(store.folder, STATE_FILE), json.dumps(state))


def keep(store: VisibilityStore, recipe: Recipe) -> VisibilityStore:
    """Bring a complete store to disk, for later runs. Until then it is trusted only until the machine restarts."""
    with disk.explain(f"cannot keep the visibilities in {store.folder}"):
        for p in store.partitions:
            for name in p.sizes():
                disk.sync(p.path(name))
        disk.sync_names(store.folder)
    store = replace(store, safe=True)
    save_state(store, recipe)
    return store


def find_store(folder: str, recipe: Recipe) -> tuple[VisibilityStore | None, str]:
    """Return the store of an earlier run with the same recipe; or None, and why it cannot be used."""
    found = _load(folder)
    if isinstance(found, str):
        return None, found
    made, store = found
    differs = difference(made, recipe)
    return (None, differs) if differs else (store, "")


def find_part(folder: str, recipe: Recipe) -> tuple[VisibilityStore, Part] | None:
    """Return a store that has all channels of a recipe, with samples, and where; None if there is none."""
    found = _load(folder)
    part = None if isinstance(found, str) else part_of(found[0], recipe)
    if isinstance(found, str) or part is None or not found[1].counts[..., [c for c in part.channels if c >= 0]].any():
        return None
    return found[1], part


def _load(folder: str) -> tuple[Recipe, VisibilityStore] | str:
    """Return the store in a folder with its recipe, or why it cannot be used."""
    incomplete = "they are incomplete or damaged"
    try:
        with disk.open_to_read(os.path.join(folder, STATE_FILE)) as file:
            state = json.load(file)
        if state["format"] != _STATE_FORMAT:
            return "another version of gpucube made them"
        if not state["safe"] and state["boot"] != _boot_id():
            return incomplete
        recipe = dict(state["recipe"])
        store = VisibilityStore(
            folder=folder,
            partitions=tuple(
                # the folder may have been moved
                Partition(**(p | {"folder": folder, "output": tuple(p["output"]), "frequency": tuple(p["frequency"])}))
                for p in state["partitions"]
            ),
            counts=np.array(state["counts"], np.int64),
            selected=np.array(state["selected"], np.int64),
            power=np.array(state["power"], float),
            ms_bytes_read=0 if state["safe"] else int(state["ms_bytes_read"]),
            safe=bool(state["safe"]),
            lacking=None if state["lacking"] is None else np.array(state["lacking"], float),
            warnings=tuple(state["warnings"]),
        )
        whole = recipe.keys() >= {"version", "shape", "sources"} and len(recipe["sources"]) == len(store.partitions) > 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return incomplete
    return (recipe, store) if whole and store.exists() else incomplete


def _boot_id() -> str:
    """Changes when the machine restarts, which may lose what was not synced: the arrays of a store are not."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
