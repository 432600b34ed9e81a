"""The fingerprint: everything that determines the bits of a cube. A run is resumed only if its fingerprint is the same.

In: the parameters of a run, the kind of its device, the version of gpucube. Out: the fingerprint, a dict of plain types
that is kept in the journal and in the summary, and a description of how two fingerprints differ. MeasurementSets and masks are
represented by the names, sizes and modification times of their files: reading them would take as long as imaging.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpucube import disk
from gpucube.schema.types import mask_files

NOT_IN_FINGERPRINT = frozenset(
    {
        "chunksize",
        "device",
        "keep_visibilities",
        "memory",
        "overwrite",
        "quiet",
        "restart",
        "resume",
        "scheduler",
        "scratch",
        "workers",
    }
)
"""Parameters that do not change a bit of the cube."""

CONTENTS = "contents of "
"""With the path of a file or a table behind it, the name of its state in a fingerprint."""


def fingerprint(parameters: dict[str, Any], device: str, version: str, tables: Sequence[str] = ()) -> dict[str, Any]:
    """Collect by name everything that determines the bits of the cube.

    `parameters` are in base units, `device` is the kind of device that was chosen, and `tables` are those that MeasurementSets
    refer to.
    """
    found = {name: value for name, value in parameters.items() if name not in NOT_IN_FINGERPRINT}
    found["vis"] = [os.path.abspath(path) for path in parameters["vis"]]
    found["imagename"] = os.path.abspath(parameters["imagename"])
    found |= {"device": device, "gpucube version": version}
    masks = mask_files(parameters.get("mask", ""))
    start = [parameters["startmodel"]] if parameters.get("startmodel") else []
    for path in [*parameters["vis"], *tables, *masks, *start]:
        found[CONTENTS + os.path.abspath(path)] = tree_state(path)
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it will be when it is read again
    return plain


def tree_state(path: str) -> str:
    """Digest names, sizes and modification times of a file, or of all files below a folder except lock files."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(path)
    with disk.explain(f"cannot read {path}"):
        files = (
            [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and p.name != "table.lock")
        )
        states = [(file, file.stat()) for file in files]
    for file, status in states:
        digest.update(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say what changed between two fingerprints, as in "robust was 0.5 and is 1.0". Empty if nothing did."""
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            if name.startswith(CONTENTS):
                changes.append(f"{name.removeprefix(CONTENTS)} has changed")
            else:
                changes.append(f"{name} was {json.dumps(before.get(name))} and is {json.dumps(now.get(name))}")
    return "; ".join(changes)
