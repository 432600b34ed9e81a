"""The visibility store: planes by key, rows in the order of the uv plane, and what a resumed run may take up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpucube.data.scratch import allocate, belongs_to, clear_leftover, find_store, keep, save_state
from gpucube.data.store import Partition, PlaneKey, VisibilityStore, sort_rows, write_rows

NROW, NCHAN = 50, 4
RECIPE = {"version": "1", "shape": [1, 2, NCHAN], "sources": [{"the rows": "a", "the channels": [[0, "b"]]}]}


def partition(folder: Path, index: int = 0, pointing: int = 0, frequency: float = 1e9) -> Partition:
    """Channels 0, 1, 2 and 3 of two Stokes parameters."""
    return Partition(
        folder=str(folder),
        index=index,
        nrow=NROW,
        nstokes=2,
        output=tuple(range(NCHAN)),
        frequency=tuple(frequency + 1e6 * k for k in range(NCHAN)),
        pointing=pointing,
    )


def fill(p: Partition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write random rows in two runs; return uvw (NROW, 3), visibilities and weights (2, NCHAN, NROW)."""
    rng = np.random.default_rng(p.index)
    uvw = rng.normal(0, 100, (NROW, 3))
    vis = (rng.standard_normal((2, NCHAN, NROW, 2)) @ [1, 1j]).astype(np.complex64)
    weight = rng.uniform(0.5, 2, vis.shape).astype(np.float32)
    for rows in (slice(0, 20), slice(20, NROW)):
        write_rows(
            p, rows.start, uvw[rows], np.ascontiguousarray(vis[..., rows]), np.ascontiguousarray(weight[..., rows])
        )
    sort_rows(p)
    return uvw, vis, weight


def store_of(folder: Path, *partitions: Partition) -> VisibilityStore:
    return VisibilityStore(
        folder=str(folder),
        partitions=partitions,
        counts=np.full((1, 2, NCHAN), NROW),
        selected=np.full((1, NCHAN), NROW),
        power=np.ones((1, 2, NCHAN)),
        ms_bytes_read=123,
    )


@pytest.mark.parametrize("stokes", [0, 1])
def test_a_plane_has_the_rows_that_were_written_for_it(tmp_path: Path, stokes: int) -> None:
    p = partition(tmp_path / "s")
    allocate([p])
    uvw, vis, weight = fill(p)
    samples = store_of(tmp_path / "s", p).samples(PlaneKey(channel=2, stokes=stokes))
    assert samples is not None
    assert samples.frequency == 1e9 + 2e6
    ordered, order = samples.in_order(), samples.order
    assert sorted(order) == list(range(NROW))
    assert np.array_equal(ordered.uvw, uvw[order])
    assert np.array_equal(ordered.vis, vis[stokes, 2, order])
    assert np.array_equal(ordered.weight, weight[stokes, 2, order])


def test_a_plane_of_another_pointing_has_its_own_samples(tmp_path: Path) -> None:
    first, second = partition(tmp_path / "s"), partition(tmp_path / "s", index=1, pointing=1)
    allocate([first, second])
    fill(first)
    _, vis, _ = fill(second)
    store = store_of(tmp_path / "s", first, second)
    samples = store.samples(PlaneKey(channel=0, stokes=0, pointing=1))
    assert samples is not None
    assert np.array_equal(samples.vis, vis[0, 0])
    assert store.samples(PlaneKey(channel=0, stokes=0, pointing=2)) is None
    assert store.samples(PlaneKey(channel=NCHAN, stokes=0)) is None


def test_partitions_of_one_pointing_are_joined_in_wavelengths(tmp_path: Path) -> None:
    first, second = partition(tmp_path / "s"), partition(tmp_path / "s", index=1, frequency=1.001e9)
    allocate([first, second])
    uvw = [fill(p)[0] for p in (first, second)]
    samples = store_of(tmp_path / "s", first, second).samples(PlaneKey(channel=3, stokes=0))
    assert samples is not None
    expected = np.concatenate([uvw[0] * 1.003e9, uvw[1] * 1.004e9])
    # one multiplication and one division in float64
    assert np.sort(samples.uvw * samples.frequency, axis=0) == pytest.approx(np.sort(expected, axis=0), rel=1e-14)


def test_a_complete_store_is_taken_up_as_it_was(tmp_path: Path) -> None:
    p = partition(tmp_path / "s", pointing=1)
    allocate([p])
    store = store_of(tmp_path / "s", p)
    save_state(store, RECIPE)
    found, _ = find_store(str(tmp_path / "s"), RECIPE)
    assert found is not None
    assert found.partitions == store.partitions
    assert found.ms_bytes_read == 123
    for name in ("counts", "selected", "power"):
        assert np.array_equal(getattr(found, name), getattr(store, name))


def test_a_store_that_is_kept_outlives_the_start_of_the_machine_and_the_name_of_its_folder(tmp_path: Path) -> None:
    p = partition(tmp_path / "s")
    allocate([p])
    assert keep(store_of(tmp_path / "s", p), RECIPE).safe
    (tmp_path / "s").rename(tmp_path / "moved")
    file = tmp_path / "moved" / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"boot": "another start of the machine"}))
    found, _ = find_store(str(tmp_path / "moved"), RECIPE)
    assert found is not None and found.safe
    assert found.partitions == (replace(p, folder=str(tmp_path / "moved")),)
    assert found.ms_bytes_read == 0, "this run has read nothing"


def test_a_store_of_another_run_or_format_or_cut_short_is_not_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    p = partition(folder)
    allocate([p])
    save_state(store_of(folder, p), RECIPE)
    of_others = {
        "gpucube 1 made them": RECIPE | {"version": "2"},
        "the rows differ": RECIPE | {"sources": [RECIPE["sources"][0] | {"the rows": "c"}]},
        "the channels of the cube differ": RECIPE | {"shape": [1, 2, NCHAN + 1]},
    }
    for why, recipe in of_others.items():
        assert find_store(str(folder), recipe) == (None, why)
    incomplete = None, "they are incomplete or damaged"
    assert find_store(str(tmp_path / "elsewhere"), RECIPE) == incomplete
    state = json.loads((folder / "store.json").read_text())
    for change in (
        {"recipe": 5},
        {"boot": "another start of the machine"},
        {"partitions": [{"rows": 5}]},
        {"counts": "x"},
    ):
        (folder / "store.json").write_text(json.dumps(state | change))
        assert find_store(str(folder), RECIPE) == incomplete
    (folder / "store.json").write_text(json.dumps(state | {"format": 1}))
    assert find_store(str(folder), RECIPE) == (None, "another version of gpucube made them")
    for text in (json.dumps({k: v for k, v in state.items() if k != "format"}), "{", ""):
        (folder / "store.json").write_text(text)
        assert find_store(str(folder), RECIPE) == incomplete
    (folder / "store.json").write_text(json.dumps(state))
    assert find_store(str(folder), RECIPE)[0] is not None
    with open(p.path("weight"), "r+b") as file:
        file.truncate(10)
    assert find_store(str(folder), RECIPE) == incomplete


def test_only_the_scratch_folder_of_the_same_imagename_is_cleared(tmp_path: Path) -> None:
    allocate([partition(tmp_path / "s")], owner=str(tmp_path / "mine"))
    assert belongs_to(str(tmp_path / "s"), str(tmp_path / "mine"))
    clear_leftover(str(tmp_path / "s"), str(tmp_path / "other"))
    assert (tmp_path / "s").exists()
    clear_leftover(str(tmp_path / "s"), str(tmp_path / "mine"))
    assert not (tmp_path / "s").exists()


def test_the_shapes_of_a_partition_say_how_many_bytes_it_takes(tmp_path: Path) -> None:
    p = partition(tmp_path / "s")
    allocate([p])
    # uvw and order of every row, and 12 bytes for every sample
    assert p.nbytes() == NROW * (24 + 4) + 2 * NCHAN * NROW * 12
    assert sum(Path(p.path(name)).stat().st_size for name in p.layout()) == p.nbytes()
    assert replace(p, nrow=0).nbytes() == 0
