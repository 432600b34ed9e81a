"""INGEST against the MeasurementSet read again in plain numpy: which samples count, with which value, weight and uvw.

Values are float32 combined in float64 and rounded once: they agree to 1e-6 of the value.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import erfa
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from casacore import tables
from jobs import altered, column
from oracles import dft_image, direct_predict, stokes_i

from gpucube.constants import LIGHT_SPEED
from gpucube.data.ingest import Ingest, ingest_rows
from gpucube.data.scratch import allocate
from gpucube.data.selection import Selection, select
from gpucube.data.store import Partition, PlaneKey, Samples, VisibilityStore
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.kind import CpuKind
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters
from gpucube.sky.geometry import ImageGeometry

STEP = 15625.0


def select_all(*vis: Path, **changes: Any) -> Selection:
    return select(make_parameters(vis=vis, imagename="unused", **changes))


def ingest(selection: Selection, folder: Path, **options: Any) -> VisibilityStore:
    reading = Ingest(selection, str(folder), **options)
    return reading.finish(report for job in reading.jobs for report in ingest_rows(job))


Ingested = Callable[..., tuple[Selection, VisibilityStore]]


@pytest.fixture
def ingested(tmp_path: Path) -> Iterator[Ingested]:
    """Factory: select and ingest, `ingested(path, ..., name=value)`; the stores live until the test ends."""
    with ExitStack() as stores:

        def run(*vis: Path, block_rows: int | None = None, **changes: Any) -> tuple[Selection, VisibilityStore]:
            selection = select_all(*vis, **changes)
            folder = tmp_path / f"scratch{len(list(tmp_path.glob('scratch*')))}"
            stores.callback(shutil.rmtree, folder)
            return selection, ingest(selection, folder, block_rows=block_rows)

        yield run


def plane(channel: int, stokes: int = 0) -> PlaneKey:
    return PlaneKey(channel=channel, stokes=stokes)


def in_ms_order(store: VisibilityStore, channel: int, stokes: int = 0, partition: int = 0) -> Samples:
    """Samples of one partition, back in the order of its rows in the MS."""
    p = store.partitions[partition]
    s = replace(store, partitions=(p,)).samples(plane(channel, stokes)).in_order()
    back = np.argsort(p.array("order"))
    return replace(s, uvw=s.uvw[back], vis=s.vis[back], weight=s.weight[back])


def kept_rows(ms: Path) -> np.ndarray:
    return np.flatnonzero(~column(ms, "FLAG_ROW") & (column(ms, "ANTENNA1") != column(ms, "ANTENNA2")))


def kept_stokes_i(ms: Path, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Value and weight of Stokes I of every kept row."""
    rows = kept_rows(ms)
    vis, weight = stokes_i(ms, channel)
    return vis[rows], weight[rows]


def assert_same(s: Samples, vis: np.ndarray, weight: np.ndarray) -> None:
    assert s.vis.dtype == np.complex64
    assert s.weight.dtype == np.float32
    assert np.array_equal(s.weight > 0, weight > 0)
    assert s.weight == pytest.approx(weight, rel=1e-6)
    assert s.vis == pytest.approx(vis, rel=1e-6, abs=1e-6)


def test_every_sample_of_every_channel(tiny_ms: Any, ingested: Ingested) -> None:
    selection, store = ingested(tiny_ms.ms)
    rows = kept_rows(tiny_ms.ms)
    frequency = column(Path(f"{tiny_ms.ms}/SPECTRAL_WINDOW"), "CHAN_FREQ")[0]
    assert np.array_equal(selection.axis.frequency, frequency)
    assert len(store.partitions) == 1
    for channel in range(12):
        s = in_ms_order(store, channel)
        vis, weight = kept_stokes_i(tiny_ms.ms, channel)
        assert_same(s, vis, weight)
        assert np.array_equal(s.uvw, column(tiny_ms.ms, "UVW")[rows])
        assert s.frequency == frequency[channel]
        assert store.counts[0, 0, channel] == np.count_nonzero(weight)
        assert store.selected[0, channel] == 900
    assert store.counts[0, 0, 2] == 0, "channel 2 is wholly flagged"
    assert 0 < store.counts[0, 0, 5] < len(rows) < 900
    assert store.ms_bytes_read == sum(s.bytes_selected() for s in selection.sources)


def test_samples_are_handed_out_with_neighbours_in_the_uv_plane_together(tiny_ms: Any, ingested: Ingested) -> None:
    """In whatever order, every one is there once; and the steps from one to the next are shorter than the MS's."""
    _, store = ingested(tiny_ms.ms)
    s, original = store.samples(plane(5)).in_order(), in_ms_order(store, 5)
    assert sorted(map(tuple, s.uvw)) == sorted(map(tuple, original.uvw))

    def steps(uvw: np.ndarray) -> float:
        uv = np.where(uvw[:, :1] < 0, -uvw, uvw)[:, :2]
        return float(np.linalg.norm(np.diff(uv, axis=0), axis=1).mean())

    assert steps(s.uvw) < 0.5 * steps(original.uvw)


def test_the_longest_baseline_and_the_largest_w_in_wavelengths(tiny_ms: Any, make_ms: Any, ingested: Ingested) -> None:
    """What decides about the w term: of the highest channel of whatever partition reaches furthest."""
    high = make_ms(seed=2, ntime=2, nchan=2, rest_freq=1500e6).ms
    _, store = ingested(tiny_ms.ms, high)
    expected = np.zeros(2)
    for ms in (tiny_ms.ms, high):
        highest = column(Path(f"{ms}/SPECTRAL_WINDOW"), "CHAN_FREQ").max()
        uvw = column(ms, "UVW")[kept_rows(ms)] * highest / LIGHT_SPEED
        expected = np.maximum(expected, [np.hypot(uvw[:, 0], uvw[:, 1]).max(), np.abs(uvw[:, 2]).max()])
    assert store.max_uvw_wavelengths() == pytest.approx(tuple(expected), rel=1e-12)


def test_power_tells_emission_from_noise(tiny_ms: Any, ingested: Ingested) -> None:
    """Weighted |V|^2 in units of the noise: 1 where there is noise only, more with a source."""
    _, store = ingested(tiny_ms.ms)
    for channel in (0, 5):
        vis, weight = kept_stokes_i(tiny_ms.ms, channel)
        expected = (weight * np.abs(vis) ** 2).sum() / (2 * np.count_nonzero(weight))
        assert store.power[0, 0, channel] == pytest.approx(expected, rel=1e-5)
    assert store.power[0, 0, 2] == 0
    assert store.power[0, 0, 5] > 2 * store.power[0, 0, 0]


def test_what_is_flagged_or_makes_no_sense_does_not_count(tiny_ms: Any, tmp_path: Path, ingested: Ingested) -> None:
    channel = 6
    clean = np.flatnonzero(~column(tiny_ms.ms, "FLAG")[:, channel].any(1) & ~column(tiny_ms.ms, "FLAG_ROW"))[:20]
    dropped = clean[:14]

    def change(t: tables.table) -> None:
        def put(name: str, row: int, place: Any, value: Any) -> None:
            cell = t.getcell(name, int(row))
            cell[place] = value
            t.putcell(name, int(row), cell)

        put("FLAG", clean[0], (channel, 0), True)
        put("FLAG", clean[1], (channel, 1), True)
        t.putcell("FLAG_ROW", int(clean[2]), True)
        t.putcell("ANTENNA2", int(clean[3]), t.getcell("ANTENNA1", int(clean[3])))
        bad_values = [np.nan, complex(0, np.nan), np.inf, complex(0, -np.inf)]
        for row, value in zip(clean[4:8], bad_values, strict=True):
            put("DATA", row, (channel, 1), value)
        for row, value in zip(clean[8:13], [0.0, -1.0, np.nan, np.inf, -np.inf], strict=True):
            put("WEIGHT", row, 0, value)
        put("UVW", clean[13], 2, np.nan)
        # garbage under a flag that is not wanted anyway must not leak
        put("DATA", clean[0], (channel, 0), np.nan)

    ms = altered(tiny_ms.ms, tmp_path, change)
    _, store = ingested(ms)
    _, before = ingested(tiny_ms.ms)
    vis, weight = kept_stokes_i(ms, channel)
    s = in_ms_order(store, channel)
    assert_same(s, vis, weight)
    assert np.isfinite(s.vis).all()
    assert np.isfinite(s.uvw).all()
    assert store.counts[0, 0, channel] == before.counts[0, 0, channel] - len(dropped)
    assert store.selected[0, channel] == 899, "an autocorrelation is not even selected"
    rows = kept_rows(ms)
    assert not s.weight[np.isin(rows, dropped)].any()
    assert s.weight[np.isin(rows, clean[14:])].all()
    # one bad channel costs its row nothing elsewhere; a bad weight or uvw costs the whole row
    assert before.counts[0, 0, 7] - store.counts[0, 0, 7] == 8


@pytest.mark.parametrize(("wanted", "lost"), [("I", 2), ("pseudoI", 0)])
def test_one_flagged_hand_drops_stokes_i_but_not_pseudo_i(
    tiny_ms: Any, tmp_path: Path, ingested: Ingested, wanted: str, lost: int
) -> None:
    row_a, row_b = np.flatnonzero(~column(tiny_ms.ms, "FLAG")[:, 6].any(1) & ~column(tiny_ms.ms, "FLAG_ROW"))[:2]

    def change(t: tables.table) -> None:
        flag = t.getcol("FLAG")
        flag[row_a, 6, 0] = flag[row_b, 6, 1] = True
        t.putcol("FLAG", flag)

    ms = altered(tiny_ms.ms, tmp_path, change)
    _, store = ingested(ms, stokes=wanted)
    _, before = ingested(tiny_ms.ms, stokes=wanted)
    assert before.counts[0, 0, 6] - store.counts[0, 0, 6] == lost
    s = in_ms_order(store, 6)
    data, weight = column(ms, "DATA"), column(ms, "WEIGHT")
    for row, hand in ((row_a, 1), (row_b, 0)):
        k = np.flatnonzero(kept_rows(ms) == row)[0]
        expected = (data[row, 6, hand], weight[row, hand]) if wanted == "pseudoI" else (0, 0)
        assert (s.vis[k], s.weight[k]) == expected
    # both hands of equal weight: the mean, with twice the weight of one; weights of I are the same
    both = in_ms_order(before, 6)
    plain, plain_weight = kept_stokes_i(tiny_ms.ms, 6)
    whole = plain_weight > 0
    assert both.vis[whole] == pytest.approx(plain[whole], rel=1e-6, abs=1e-6)
    assert both.weight[whole] == pytest.approx(plain_weight[whole], rel=1e-6)


def test_stokes_parameters_of_four_correlations(make_ms: Any, ingested: Ingested) -> None:
    ms = make_ms(npol=4, nchan=4, ntime=4).ms
    _, store = ingested(ms, stokes="IQUV")
    rows = kept_rows(ms)
    rr, rl, lr, ll = column(ms, "DATA")[rows, 1].astype(complex).T
    flag = column(ms, "FLAG")[rows, 1]
    parallel, cross = ~(flag[:, 0] | flag[:, 3]), ~(flag[:, 1] | flag[:, 2])
    expected = [
        ((rr + ll) / 2, parallel),
        ((rl + lr) / 2, cross),
        ((rl - lr) / 2j, cross),
        ((rr - ll) / 2, parallel),
    ]
    for k, (value, good) in enumerate(expected):
        s = in_ms_order(store, 1, stokes=k)
        assert np.array_equal(s.weight > 0, good)
        assert s.vis == pytest.approx(np.where(good, value, 0), rel=1e-6, abs=1e-6)
        assert store.counts[0, k, 1] == good.sum()


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("stokes", ["IQUV", "pseudoI", "RR", "LL"])
def test_correlations_may_be_stored_in_any_order(
    order: tuple[int, ...], stokes: str, make_ms: Any, ingested: Ingested, tmp_path: Path
) -> None:
    """The oracle is the same data in the usual order."""
    ms = make_ms(npol=4, nchan=4, ntime=4)
    other = tmp_path / "other.ms"
    shutil.copytree(ms.ms, other)
    with tables.table(str(other), readonly=False, ack=False) as t:
        for column in {"DATA", "FLAG", "WEIGHT_SPECTRUM", "WEIGHT", "SIGMA"} & set(t.colnames()):
            t.putcol(column, np.ascontiguousarray(t.getcol(column)[..., list(order)]))
    with tables.table(str(other / "POLARIZATION"), readonly=False, ack=False) as t:
        t.putcol("CORR_TYPE", np.ascontiguousarray(t.getcol("CORR_TYPE")[:, list(order)]))
        t.putcol("CORR_PRODUCT", np.ascontiguousarray(t.getcol("CORR_PRODUCT")[:, list(order)]))
    (_, usual), (_, changed) = ingested(ms.ms, stokes=stokes), ingested(other, stokes=stokes)
    assert usual.counts.sum() > 0
    for s in range(usual.counts.shape[1]):
        first, second = in_ms_order(usual, 1, stokes=s), in_ms_order(changed, 1, stokes=s)
        assert np.array_equal(first.vis, second.vis) and np.array_equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("start", "width", "groups"), [(1, 4, [(1, 2, 3, 4), (5, 6, 7, 8)]), (11, -5, [(7, 8, 9, 10, 11), (2, 3, 4, 5, 6)])]
)
@pytest.mark.parametrize("weight_spectrum", [False, True])
def test_averaged_channels_are_weighted_means(
    make_ms: Any, ingested: Ingested, start: int, width: int, groups: list[tuple[int, ...]], weight_spectrum: bool
) -> None:
    ms = make_ms(weight_spectrum=weight_spectrum).ms
    selection, store = ingested(ms, start=start, width=width)
    frequency = column(Path(f"{ms}/SPECTRAL_WINDOW"), "CHAN_FREQ")[0]
    for k, group in enumerate(groups):
        each = [kept_stokes_i(ms, c) for c in group]
        total = sum(w for _, w in each)
        mean = np.divide(sum(v * w for v, w in each), total, out=np.zeros(len(total), complex), where=total > 0)
        s = in_ms_order(store, k)
        assert_same(s, mean, total)
        assert s.frequency == pytest.approx(frequency[list(group)].mean(), rel=1e-14)
        # flags of single channels make the weights uneven, but cost no sample
        assert store.counts[0, 0, k] == np.count_nonzero(total)
    assert store.ms_bytes_read == sum(s.bytes_selected() for s in selection.sources)


def test_falling_frequency_stays_in_the_order_of_the_data(make_ms: Any, ingested: Ingested) -> None:
    ms = make_ms(chan_width=-STEP, seed=7).ms
    selection, store = ingested(ms, start=3, nchan=2)
    frequency = column(Path(f"{ms}/SPECTRAL_WINDOW"), "CHAN_FREQ")[0]
    assert np.all(np.diff(frequency) < 0)
    assert np.array_equal(selection.axis.frequency, frequency[3:5])
    for k in range(2):
        assert_same(in_ms_order(store, k), *kept_stokes_i(ms, 3 + k))


@pytest.mark.parametrize("filled_with", [None, 0.0])
def test_an_empty_weight_spectrum_is_not_used(
    tiny_ms: Any, tmp_path: Path, ingested: Ingested, filled_with: float | None
) -> None:
    def change(t: tables.table) -> None:
        t.addcols(tables.maketabdesc(tables.makearrcoldesc("WEIGHT_SPECTRUM", 0.0, valuetype="float", ndim=2)))
        if filled_with is not None:
            t.putcol("WEIGHT_SPECTRUM", np.full((900, 12, 2), filled_with, np.float32))

    selection, store = ingested(altered(tiny_ms.ms, tmp_path, change))
    assert selection.sources[0].weight == "WEIGHT"
    assert_same(in_ms_order(store, 5), *kept_stokes_i(tiny_ms.ms, 5))


def test_a_filled_weight_spectrum_is_used(make_ms: Any, ingested: Ingested) -> None:
    ms = make_ms(weight_spectrum=True).ms
    selection, store = ingested(ms)
    assert selection.sources[0].weight == "WEIGHT_SPECTRUM"
    for channel in (0, 6, 11):
        assert_same(in_ms_order(store, channel), *kept_stokes_i(ms, channel))
    edge, middle = (np.median(in_ms_order(store, channel).weight) for channel in (0, 6))
    assert edge < 0.6 * middle, "the band edge is noisier"
    assert store.ms_bytes_read == 900 * (24 + 12 * 2 * (8 + 1 + 4))


@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_two_mss_share_channels_and_keep_their_own_frequency(
    tiny_ms: Any, make_ms: Any, ingested: Ingested, offset: float
) -> None:
    other = make_ms(seed=2, ntime=7, rest_freq=1420.405752e6 + offset * STEP).ms
    selection, store = ingested(tiny_ms.ms, other)
    assert len(store.partitions) == 2
    assert len(selection.axis.frequency) == 12
    for channel in (0, 5):
        first, second = (in_ms_order(store, channel, partition=k) for k in (0, 1))
        assert_same(first, *kept_stokes_i(tiny_ms.ms, channel))
        assert_same(second, *kept_stokes_i(other, channel))
        assert second.frequency - first.frequency == pytest.approx(offset * STEP, abs=1e-3)
        joined = store.samples(plane(channel))
        assert joined.frequency == first.frequency
        assert len(joined.vis) == len(first.vis) + len(second.vis)
        assert joined.weight.sum(dtype=float) == pytest.approx(
            first.weight.sum(dtype=float) + second.weight.sum(dtype=float), rel=1e-12
        )
        # in wavelengths each row lies where its own frequency puts it
        wavelengths = [s.uvw * s.frequency for s in (first, second, joined)]
        expected = np.sort(np.concatenate(wavelengths[:2]), axis=0)
        assert np.sort(wavelengths[2], axis=0) == pytest.approx(expected, rel=1e-12)
        assert store.counts[0, 0, channel] == np.count_nonzero(joined.weight)
    assert store.selected[0, 5] == 900 + 45 * 7
    assert store.ms_bytes_read == sum(s.bytes_selected() for s in selection.sources)


def test_a_second_ms_at_other_frequencies_follows_the_first(tiny_ms: Any, make_ms: Any, ingested: Ingested) -> None:
    # its first channel lies 20 channels above the first one of the first MS: 8 channels between them are blank
    other = make_ms(seed=2, ntime=3, nchan=4, rest_freq=1420.405752e6 + 16 * STEP).ms
    selection, store = ingested(tiny_ms.ms, other)
    assert len(selection.axis.frequency) == 24
    assert_same(in_ms_order(store, 21, partition=1), *kept_stokes_i(other, 1))
    assert store.samples(plane(21)).frequency == pytest.approx(selection.axis.frequency[21], rel=1e-14)
    assert store.partitions[1].output == (20, 21, 22, 23)
    assert [store.samples(plane(blank)) for blank in (12, 19)] == [None, None]


def test_only_the_selected_channels_are_read(tiny_ms: Any, ingested: Ingested) -> None:
    selection, store = ingested(tiny_ms.ms, spw="0:4~6")
    assert len(selection.axis.frequency) == 3
    for k in range(3):
        assert_same(in_ms_order(store, k), *kept_stokes_i(tiny_ms.ms, 4 + k))
    # of every row UVW, three channels of two correlations of DATA and FLAG, and WEIGHT: nothing else, nothing twice
    assert (
        store.ms_bytes_read
        == sum(s.bytes_selected() for s in selection.sources)
        == 900 * (24 + 3 * 2 * (8 + 1) + 2 * 4)
    )


def test_blocks_of_rows_join_without_a_seam(make_ms: Any, ingested: Ingested) -> None:
    """Blocks of 50 rows instead of one for all: the same bits."""
    ms = make_ms(ntime=8).ms
    _, whole = ingested(ms)
    selection, parts = ingested(ms, block_rows=50)
    for name in ("uvw", "order", "vis", "weight"):
        assert np.array_equal(whole.partitions[0].array(name), parts.partitions[0].array(name))
    assert np.array_equal(whole.counts, parts.counts)
    assert parts.ms_bytes_read == sum(s.bytes_selected() for s in selection.sources)


def test_nothing_counts_where_every_row_is_flagged(tiny_ms: Any, tmp_path: Path, ingested: Ingested) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("FLAG_ROW", np.ones(900, bool)))
    with pytest.raises(GpucubeError, match="no data are left"):
        ingested(ms)


# 0.4 degrees off: the rotation, w and the curvature of the sky all matter (0.1 turns of phase)
PLACES = [(-0.004, 0.006), (-0.0045, 0.0052), (-0.001, -0.002)]
FLUX = [1.0, 0.3, 0.5]


def test_a_new_phase_centre_moves_the_source_there_to_the_middle_of_the_image(make_ms: Any, ingested: Ingested) -> None:
    made = make_ms(noise=0, sources=[(l, m, s) for (l, m), s in zip(PLACES, FLUX, strict=True)], nchan=4)
    truth = np.load(made.truth)
    centre = SkyCoord(truth["ra"][0] * units.rad, truth["dec"][0] * units.rad, frame="fk5")
    selection, store = ingested(made.ms, phasecenter=(centre.ra.rad, centre.dec.rad, "FK5"))
    assert (selection.geometry.centre.ra, selection.geometry.centre.dec) == (centre.ra.rad, centre.dec.rad)
    # where astropy sees the sources from there
    sources = SkyCoord(truth["ra"] * units.rad, truth["dec"] * units.rad, frame="fk5")
    offset = sources.transform_to(centre.skyoffset_frame()).cartesian
    found = list(zip(offset.y.value, offset.z.value, FLUX, strict=True))
    s = store.samples(plane(1)).in_order()
    good = s.weight > 0
    turned, original = in_ms_order(store, 1).uvw, column(made.ms, "UVW")[kept_rows(made.ms)]
    assert np.linalg.norm(turned, axis=1) == pytest.approx(np.linalg.norm(original, axis=1), rel=1e-12)
    assert np.abs(turned - original).max() > 1.0
    # float32 visibilities; phases of thousands of turns in float64
    assert s.vis[good] == pytest.approx(direct_predict(s.uvw, s.frequency, found)[good], abs=2e-6)
    cell = 20 * np.pi / 180 / 3600
    g = ImageGeometry(nx=64, ny=64, cell_x=cell, cell_y=cell, centre=selection.geometry.centre)
    device = CpuKind().make(ImagingSettings(geometry=g, epsilon=1e-6, w_term=True))
    (started,) = device.begin([s], [None])
    dirty = device.fetch(started, "dirty")
    assert np.unravel_index(dirty.argmax(), dirty.shape) == (32, 32)
    # the peak is the source and what the sidelobes of the others bring, which the direct sum knows
    expected = np.average(direct_predict(s.uvw, s.frequency, found).real, weights=s.weight)
    assert dirty[32, 32] == pytest.approx(expected, abs=3e-6)
    # the grid knows of it too: without a shift of uvw the image would be that of another place
    assert dft_image(s, g, s.weight, s.vis)[32, 32] == pytest.approx(expected, abs=1e-6)


def test_the_same_phase_centre_in_another_frame_changes_nothing(tiny_ms: Any, ingested: Ingested) -> None:
    _, plain = ingested(tiny_ms.ms)
    info = select_all(tiny_ms.ms).geometry.centre
    # J2000 is ICRS and its frame bias (IAU 2006, by erfa)
    x, y, z = erfa.bp06(2400000.5, 51544.5)[0].T @ erfa.s2c(info.ra, info.dec)
    icrs = float(np.arctan2(y, x) % (2 * np.pi)), float(np.arcsin(z)), "ICRS"
    selection, store = ingested(tiny_ms.ms, phasecenter=icrs)
    assert selection.geometry.centre.frame == "ICRS"
    # north is 3e-8 radians apart: 3e-5 m on a kilometre
    assert in_ms_order(store, 5).uvw == pytest.approx(in_ms_order(plain, 5).uvw, abs=4e-5)
    assert in_ms_order(store, 5).vis == pytest.approx(in_ms_order(plain, 5).vis, abs=1e-5)


def test_the_scratch_folder_must_not_exist_and_is_left_alone(tiny_ms: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").write_text("data")
    with pytest.raises(GpucubeError, match=r"mine already exists: .* name another with `scratch`"):
        Ingest(select_all(tiny_ms.ms), str(folder))
    assert (folder / "precious").read_text() == "data"


def test_the_store_is_four_files_a_partition_in_the_scratch_folder(tiny_ms: Any, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "scratch"
    store = ingest(select_all(tiny_ms.ms), folder)
    assert len(list(folder.glob("partition0.*"))) == 4
    assert store.exists()
    (folder / "partition0.vis").unlink()
    assert not store.exists()


def partition(folder: Path, nrow: int, nchan: int) -> Partition:
    return Partition(
        folder=str(folder), index=0, nrow=nrow, nstokes=1, output=tuple(range(nchan)), frequency=(1e9,) * nchan
    )


def test_a_scratch_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GpucubeError, match="cannot be made: Not a directory"):
        allocate([partition(tmp_path / "file" / "scratch", 10, 1)])


def test_a_store_larger_than_the_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(GpucubeError, match=r"needs .* TB of disk but .* has only .* free"):
        allocate([partition(tmp_path / "scratch", 10**15, 100)])
    assert os.listdir(tmp_path) == []


def test_every_row_is_reported_as_read(tiny_ms: Any, tmp_path: Path) -> None:
    reading = Ingest(select_all(tiny_ms.ms), str(tmp_path / "s"), block_rows=100)
    assert (reading.rows_done, reading.nrow) == (0, 900)
    seen = []
    for job in reading.jobs:
        for report in ingest_rows(job):
            reading.add(report)
            seen.append(reading.rows_done)
    assert seen == list(range(100, 1000, 100))


def test_fields_are_chosen_by_number_or_name(tiny_ms: Any, tmp_path: Path, ingested: Ingested) -> None:
    """Two fields in one MS: every other row is the second's, whose phase centre lies elsewhere."""
    copy = tmp_path / "two.ms"
    shutil.copytree(tiny_ms.ms, copy)
    with tables.table(f"{copy}::FIELD", readonly=False, ack=False) as t:
        t.addrows(1)
        for name in t.colnames():
            if t.iscelldefined(name, 0):
                t.putcell(name, 1, t.getcell(name, 0))
        t.putcell("NAME", 1, "OTHER")
        t.putcell("PHASE_DIR", 1, t.getcell("PHASE_DIR", 0) + 0.01)
    with tables.table(str(copy), readonly=False, ack=False) as t:
        t.putcol("FIELD_ID", (np.arange(900) % 2).astype(np.int32))
    with pytest.raises(
        GpucubeError,
        match=r"2 fields fit `field=''` \(0: SIMLINE, 1: OTHER\) and lie up to [\d.]+ arcmin apart: select one by its number",
    ):
        select_all(copy)
    with pytest.raises(GpucubeError, match="fields are numbered 0 to 1: SIMLINE, OTHER"):
        select_all(copy, field="2")
    with pytest.raises(
        GpucubeError, match="`field='M31'`: no field matches; fields are numbered 0 to 1: SIMLINE, OTHER"
    ):
        select_all(copy, field="M31")
    by_number, by_name = ingested(copy, field="1"), ingested(copy, field="OTHER")
    odd = kept_rows(copy)
    odd = odd[odd % 2 == 1]
    for selection, store in (by_number, by_name):
        assert selection.object_name == "OTHER"
        assert store.selected[0, 5] == 450
        assert np.array_equal(in_ms_order(store, 5).uvw, column(copy, "UVW")[odd])


def test_the_data_column(tiny_ms: Any, tmp_path: Path, ingested: Ingested) -> None:
    def change(t: tables.table) -> None:
        t.addcols(tables.maketabdesc(tables.makearrcoldesc("CORRECTED_DATA", 0j, valuetype="complex", ndim=2)))
        t.putcol("CORRECTED_DATA", 2 * t.getcol("DATA"))

    ms = altered(tiny_ms.ms, tmp_path, change)
    plain = in_ms_order(ingested(tiny_ms.ms)[1], 5).vis
    for name, factor in (("auto", 2), ("corrected", 2), ("data", 1)):
        assert np.array_equal(in_ms_order(ingested(ms, datacolumn=name)[1], 5).vis, factor * plain)
    with pytest.raises(GpucubeError, match="has no column MODEL_DATA: `datacolumn` can be data or corrected"):
        select_all(ms, datacolumn="model")


@pytest.mark.parametrize("spoil", ["FLAG", "FLAG_ROW", "WEIGHT", "DATA"])
def test_a_measurement_set_that_adds_no_sample_gives_a_warning(
    spoil: str, tiny_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    worthless = {"FLAG": True, "FLAG_ROW": True, "WEIGHT": 0.0, "DATA": np.nan}[spoil]
    other = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol(spoil, np.full_like(t.getcol(spoil), worthless)))
    _, store = ingested(tiny_ms.ms, other)
    assert [text.startswith(f"{other} adds nothing to the cube") for text in store.warnings] == [True]
    _, alone = ingested(tiny_ms.ms)
    assert np.array_equal(store.counts, alone.counts)


def add_corrected(t: tables.table, empty: np.ndarray) -> None:
    """CORRECTED_DATA is DATA, and 0 in some rows, bool (nrow,)."""
    t.addcols(tables.maketabdesc(tables.makearrcoldesc("CORRECTED_DATA", 0j, valuetype="complex", ndim=2)))
    t.putcol("CORRECTED_DATA", t.getcol("DATA") * ~empty[:, None, None])


ROW = np.arange(900)


@pytest.mark.parametrize("empty", [ROW >= 0, ROW < 450, ROW % 50 == 0], ids=["all", "half", "one in 50"])
def test_a_column_that_has_not_been_filled_gives_a_warning(
    empty: np.ndarray, tiny_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: add_corrected(t, empty))
    good = np.zeros(900, bool)
    good[kept_rows(ms)] = True
    good &= ~column(ms, "FLAG").any(2).all(1)
    _, store = ingested(tiny_ms.ms, ms)
    assert store.warnings == (
        f"{ms}: CORRECTED_DATA is exactly 0, in every channel and correlation that is imaged, in {(empty & good).sum()} of "
        f"{good.sum()} unflagged rows: flag these rows, or choose another `datacolumn`, if it has not been filled",
    )


def test_a_window_without_corrected_data_gives_a_warning_even_if_it_has_few_rows(
    tiny_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    """Eight of 908 rows are the only ones of the second description."""
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.copyrows(t, 0, -1, 1), "DATA_DESCRIPTION")
    with tables.table(str(ms), readonly=False, ack=False) as t:
        t.copyrows(t, 0, -1, 8)
        number = np.arange(t.nrows()) >= 900
        t.putcol("DATA_DESC_ID", number.astype(np.int32))
        t.putcol("FLAG_ROW", t.getcol("FLAG_ROW") & ~number)
        t.putcol("FLAG", t.getcol("FLAG") & ~number[:, None, None])
        add_corrected(t, number)
    _, store = ingested(ms)
    (warning,) = store.warnings
    assert "that is imaged, in 8 of 878 unflagged rows" in warning


@pytest.mark.parametrize(
    "spoil",
    [np.s_[::201], np.s_[:, :4], np.s_[:, :, 0], np.s_[::3, ::2]],
    ids=["few rows", "channels", "hand", "samples"],
)
def test_zeros_that_may_be_measured_or_simulated_give_no_warning(
    spoil: Any, make_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    """A line without continuum and noise is 0 in the channels beside it."""

    def change(t: tables.table) -> None:
        data = t.getcol("DATA")
        data[spoil] = 0
        t.putcol("DATA", data)

    ms = altered(make_ms(noise=0.0, sources=[(0.0, 0.0, 1.0)]).ms, tmp_path, change)
    assert ingested(ms)[1].warnings == ()


@pytest.mark.parametrize("stokes", ["I", "pseudoI"])
@pytest.mark.parametrize("width", [1, 4, -3])
def test_averages_say_how_many_of_their_channels_are_lacking(
    width: int, stokes: str, tiny_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    def change(t: tables.table) -> None:
        flag = t.getcol("FLAG")
        flag[:, 1:4] = True
        flag[::3, 6:8, 0] = True
        t.putcol("FLAG", flag)

    ms = altered(tiny_ms.ms, tmp_path, change)
    _, store = ingested(ms, width=width, stokes=stokes)
    flag = column(ms, "FLAG")[kept_rows(ms)]
    good = ~(flag.any(2) if stokes == "I" else flag.all(2))  # (nrow, nchan)
    parts = good[:, :: int(np.sign(width))].reshape(len(good), -1, abs(width))
    counts = parts.any(2)  # (nrow, nslot)
    lacking = (~parts & counts[..., None]).sum((0, 2)) / np.maximum(1, counts.sum(0) * abs(width))
    assert store.lacking is not None and store.lacking[0, 0] == pytest.approx(lacking)
    assert (lacking.max() == 0.75) if width == 4 else (lacking.max() > 0) == (width != 1)


def test_where_one_hand_is_flagged_pseudo_i_is_advised(tiny_ms: Any, tmp_path: Path, ingested: Ingested) -> None:
    def change(t: tables.table) -> None:
        flag = t.getcol("FLAG")
        flag[:, :, 1] = True
        t.putcol("FLAG", flag)

    ms = altered(tiny_ms.ms, tmp_path, change)
    with pytest.raises(GpucubeError, match="two hands are needed of each: `stokes='pseudoI'` takes either"):
        ingested(ms)
    _, store = ingested(ms, stokes="pseudoI")
    assert store.counts[0, 0].tolist() == (~column(ms, "FLAG")[kept_rows(ms), :, 0]).sum(0).tolist()
    with tables.table(str(ms), readonly=False, ack=False) as t:
        t.putcol("DATA", t.getcol("DATA") * np.nan)
    with pytest.raises(GpucubeError, match=r"no usable weight, value or uvw$"):
        ingested(ms)


@pytest.mark.parametrize("kind", ["joined", "sorted by reference"])
def test_parts_and_references_are_read_as_the_whole(
    kind: str, tiny_ms: Any, tmp_path: Path, ingested: Ingested
) -> None:
    """As virtualconcat, partition and casacore's selections leave them: no rows of their own, in another order."""
    _, expected = ingested(tiny_ms.ms)
    whole = str(tmp_path / "whole.ms")
    with tables.table(str(tiny_ms.ms), ack=False) as t:
        if kind == "joined":
            for name, part in (("one", "ANTENNA1 < 2"), ("two", "ANTENNA1 >= 2")):
                t.query(part).copy(str(tmp_path / name), deep=True).close()
            tables.msconcat([str(tmp_path / "one"), str(tmp_path / "two")], whole)
        else:
            t.sort("ANTENNA2, TIME").copy(whole, deep=False).close()
    for spw in ("", "*:3~5"):
        _, store = ingested(whole, spw=spw)
        channels = slice(3, 6) if spw else slice(None)
        assert np.array_equal(store.counts[0, 0], expected.counts[0, 0][channels])
        # sums of single precision in another order
        assert store.power[0, 0] == pytest.approx(expected.power[0, 0][channels], rel=1e-6)
