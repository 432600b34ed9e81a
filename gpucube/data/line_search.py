"""Propose line-free channels from a sample of the data.

In: a selection. Out: a `Proposal`: text for `contsubspw`, the order of the polynomial, and how they were found, in words.

Some thousand spectra from all rows of each window are read, with all their channels. A straight line in frequency is
subtracted from every spectrum, as continuum subtraction would do. A spectral line then shows in two ways: by power,
sum w |V|^2, above that of the noise, wherever it is; and by a mean at the centre of the image, if it is faint and lies there.
The noise of a channel is that of the difference between two parallel hands, in which unpolarized sources cancel. If there is
only one hand, the noise is that of second differences between channels some way apart. Channels, and runs of 2, 4, 8 ...
channels, stand out if they are more than `LIMIT` standard deviations above the noise. They are left out of the fit, the
strongest first, until nothing changes.

This is done twice: once beginning with all channels, and once with only the ends of the window. If both succeed but differ,
lines cannot be told from continuum, and nothing is proposed. The proposed channels keep a margin from each line, in all
windows that cover the same frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpucube.data.continuum import continuum_fit
from gpucube.data.ingest import to_phase_centre, usable_uvw
from gpucube.data.measurementset import describe
from gpucube.data.rows import BlockReader
from gpucube.data.selection import Selection, Source
from gpucube.data.stokes import Rule
from gpucube.errors import GpucubeError
from gpucube.sky.spectral_types import velocity_of
from gpucube.text import counted, ranges

SAMPLE_BYTES, FEWEST_BYTES = 16 * 2**20, 2 * 2**20
"""Bytes of visibilities that are read, of all windows together; and of each window where there are many."""

RUNS = 16
"""Runs of rows, spread over all rows, that a sample is made of."""

FEWEST_CHANNELS, FEWEST_SPECTRA = 16, 50
"""A sample with fewer says nothing."""

LIMIT = 6.0
SURE_NOISE = 2000
"""Differences of hands from which the noise of a channel is known well enough; neighbouring channels are taken, too."""

LARGEST_SPREAD = 4.0
"""Marks of noise spread by 1.7 because the noise is uncertain, and by up to 1.6 times as much where channels are correlated."""

SHARE, HALF_WIDTH = 0.3, 0.3853
"""Half of the shortest interval that holds this share of a normal distribution, in standard deviations."""

STRENGTHS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0, 0.0, 0.0)
"""Channels must have this part of the strongest mark to be left out, pass after pass."""

FEWEST_FREE = 0.25
"""Part of a window that must be free of lines."""

ENDS = 0.15
"""Part of a window at each end with which the second way begins."""

LEAST_MARGIN, WING = 1 / 6, 0.01
"""Part of its own width by which line-free channels keep away from a line; and part of its peak that they may have."""

FAINT = 1.5
"""A line whose amplitude is less than so many times that which stands out shows little of its width: margins are wide."""

SAME = 0.1
"""Part of the channels in which the two ways may differ."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Line-free channels."""

    contsubspw: tuple[str, ...]  # for each MeasurementSet that is imaged; empty if none can be proposed
    contsuborder: int
    words: tuple[str, ...]  # what was seen, or why nothing is proposed

    def __str__(self) -> str:
        if not self.contsubspw:
            return ""
        texts = [f'"{text}"' for text in self.contsubspw]
        same = len(set(texts)) == 1
        return texts[0] if same else "'[" + ", ".join(texts) + "]'"


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Spectra of one source: those of the hands of the first Stokes parameter, one after the other."""

    source: Source
    window: np.ndarray  # (nchan,) frequencies of the window in the frame of the data, Hz
    vis: np.ndarray  # (nspectrum, nchan) complex64, 0 where nothing counts
    weight: np.ndarray  # (nspectrum, nchan) float32
    pairs: bool  # whether the second half of the spectra is the other hand of the first half
    turn: np.ndarray  # (nspectrum, nchan) complex64, takes the phase to the centre of the image
    usual: np.ndarray  # (nchan,) bool, channels of which half of the spectra have a sample, or more

    @property
    def frequency(self) -> np.ndarray:
        """Channels in the frame of the cube, Hz, (nchan,)."""
        factor: np.ndarray | None = self.source.rows.factor
        return self.window * (1.0 if factor is None else float(np.median(factor)))


def propose(selection: Selection) -> Proposal:
    """Read a sample and propose line-free channels for the windows that are imaged.

    If the continuum is already subtracted, nothing is proposed, and the text says which of the fitted channels stand out.
    """
    try:
        most = max(FEWEST_BYTES, SAMPLE_BYTES // len(selection.sources))
        samples = [s for source in selection.sources if (s := _read(source, most))]
    except GpucubeError as error:
        return _nothing(f"no line-free channels are proposed: {error}")
    if any(source.continuum is not None for source in selection.sources):
        return _nothing(*_doubts(samples))
    if len(samples) < len(selection.sources):
        return _nothing(
            f"no line-free channels are proposed: to find them, every window needs at least {FEWEST_CHANNELS} channels and "
            f"{FEWEST_SPECTRA} unflagged spectra in the sample"
        )
    found, strengths = [], []
    for sample in samples:
        lines, strength = _lines(sample)
        if lines is None:
            return _nothing(
                f"no line-free channels are proposed: lines cannot be told from continuum in a sample of {_label(sample)}"
            )
        found.append(lines)
        strengths.append(strength)
    free = _without_lines(samples, found, strengths)
    for sample, channels in zip(samples, free, strict=True):
        if (channels & sample.usual).sum() < FEWEST_FREE * sample.usual.sum() or not _reaches_the_ends(channels):
            return _nothing(
                "no line-free channels are proposed: lines, or a continuum that is not a straight line, fill most of "
                f"{_label(sample)} or one end of it"
            )
    spectra = counted(sum(len(s.vis) for s in samples), "spectrum", "spectra")
    level, sure = _continuum([(s, s.usual & ~f) for s, f in zip(samples, found, strict=True)])
    if not sure:
        return _nothing(
            f"no continuum was found in a sample of {spectra}: one of more than {level:.2g} Jy (rms) would have been found"
        )
    words = [f"continuum of {level:.3g} Jy (rms over a sample of {spectra})"]
    if not any(_is_line(*run, len(f)) for s, f in zip(samples, found, strict=True) for run in _runs(f & s.usual)):
        return _nothing(
            *words, "no line was found, so no line-free channels are proposed: name channels away from the line"
        )
    texts: dict[str, dict[int, np.ndarray]] = {}
    for sample, channels in zip(samples, free, strict=True):
        of_path = texts.setdefault(sample.source.path, {})
        of_path[sample.source.spw] = of_path.get(sample.source.spw, channels) & channels
    words += _seen(samples, found, selection.axis.restfreq)
    order = _order(samples, [channels & s.usual for s, channels in zip(samples, free, strict=True)])
    written = tuple(
        ",".join(
            f"{spw}:" + ranges(np.flatnonzero(channels)).replace(", ", ";") for spw, channels in sorted(of.items())
        )
        for of in texts.values()
    )
    return Proposal(contsubspw=written, contsuborder=order, words=tuple(words))


def _doubts(samples: Sequence[_Sample]) -> Iterator[str]:
    """Say which channels that the user has named stand out beside the fit to all of them."""
    for sample in samples:
        fit = sample.source.continuum
        if fit is not None:
            lines, _ = _lines(sample)
            if lines is not None and not lines.all():
                among = np.flatnonzero(lines & fit.at(sample.source.rows.factor_span[0]))
                if len(among):
                    yield f"channels {ranges(among)} of {_label(sample)} stand out, and `contsubspw` takes them as free of lines"


def _nothing(*words: str) -> Proposal:
    return Proposal(contsubspw=(), contsuborder=0, words=words)


def _label(sample: _Sample) -> str:
    return f"{sample.source.path} spectral window {sample.source.spw}"


def _reaches_the_ends(channels: np.ndarray) -> bool:
    """Whether half of the channels at each end of the window are line-free: otherwise the continuum would be extrapolated."""
    end = math.ceil(ENDS * len(channels))
    return bool(min(channels[:end].mean(), channels[-end:].mean()) >= 0.5)


def _read(source: Source, most: int) -> _Sample | None:
    """Read spectra of a source; None if there are too few."""
    nchan, ncorr = source.input_shape
    combination = source.combinations[0]
    hands = [hand for hand in combination.hands if hand >= 0]
    kept = np.flatnonzero(source.rows.keep)
    if combination.rule == Rule.NONE or nchan < FEWEST_CHANNELS or not len(kept):
        return None
    runs = np.array_split(kept, min(RUNS, len(kept)))
    each = max(1, most // (8 * nchan * ncorr * len(runs)))
    rows = source.rows.at(np.concatenate([run[:each] for run in runs]))
    reader = BlockReader(source.path, rows, source.column, source.weight, source.input_shape, None)
    try:
        block = reader.read(0, len(rows))
    finally:
        reader.close()
    window = describe(source.path).spectral_windows[source.spw].frequency
    uvw, usable = usable_uvw(block.uvw)
    _, delay = to_phase_centre(uvw, source.rotation_at(rows.time))
    turn = np.exp(2j * np.pi * np.modf(delay[:, None] * window)[0]).astype(np.complex64)
    vis = np.concatenate([block.data[:, :, hand] for hand in hands])
    weight = np.concatenate([np.broadcast_to(block.weight[:, :, hand], turn.shape) for hand in hands])
    flag = np.concatenate([block.flag[:, :, hand] | ~usable[:, None] for hand in hands])
    good = ~flag & (weight > 0) & np.isfinite(weight) & np.isfinite(vis)
    vis, weight, turn = np.where(good, vis, 0), np.where(good, weight, 0), np.concatenate([turn] * len(hands))
    there = (weight > 0).sum(axis=1) > nchan / 2
    both = np.tile(there[: len(rows)] & there[-len(rows) :], len(hands))
    pairs = len(hands) == 2 and both.sum() >= FEWEST_SPECTRA
    there = both if pairs else there
    if there.sum() < FEWEST_SPECTRA:
        return None
    vis, weight, turn = vis[there], weight[there], turn[there]
    often = (weight > 0).mean(axis=0)
    usual = often >= 0.5 * np.median(often)
    return _Sample(source=source, window=window, vis=vis, weight=weight, pairs=pairs, turn=turn, usual=usual)


def _fit(sample: _Sample, channels: np.ndarray, order: int) -> np.ndarray:
    """Coefficients of a polynomial through some channels of every spectrum, (nspectrum, order + 1) complex."""
    powers = np.vander(_abscissa(sample), order + 1, increasing=True) * channels[:, None]  # (nchan, terms)
    products = powers[:, :, None] * powers[:, None, :]
    normal = (sample.weight @ products.reshape(len(powers), -1)).reshape(-1, order + 1, order + 1)
    right = (sample.weight * sample.vis) @ powers
    # a spectrum without enough channels gets the polynomial that is least in the others
    normal += 1e-6 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(order + 1) + 1e-30 * np.eye(order + 1)
    solved: np.ndarray = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return solved


def _abscissa(sample: _Sample) -> np.ndarray:
    frequency = sample.window
    abscissa: np.ndarray = (2 * frequency - frequency.max() - frequency.min()) / np.ptp(frequency)
    return abscissa


def _lines(sample: _Sample) -> tuple[np.ndarray | None, np.ndarray]:
    """Find channels in which something other than noise and continuum stands out, bool, (nchan,); None if this is not clear.

    The second array is the strength of each channel: its amplitude over the smallest amplitude that stands out.
    """
    nchan = len(sample.usual)
    end = math.ceil(ENDS * nchan)
    middle = (np.arange(nchan) >= end) & (np.arange(nchan) < nchan - end)
    noise = _noise(sample)
    ways = [_leave_out(sample, noise, start) for start in (np.zeros(nchan, bool), middle)]
    good = [way for way in ways if (sample.usual & ~way[0]).sum() >= FEWEST_FREE * sample.usual.sum()]
    if len(good) == 2 and (good[0][0] ^ good[1][0]).sum() > max(4, SAME * nchan):
        return None, ways[0][1]
    return good[0] if good else (np.ones(nchan, bool), ways[0][1])


def _noise(sample: _Sample) -> np.ndarray:
    """Estimate the mean of w |V|^2 / 2 of the noise in each channel, (nchan,)."""
    if sample.pairs:
        half = len(sample.vis) // 2
        with np.errstate(divide="ignore"):
            together = 1 / (1 / sample.weight[:half] + 1 / sample.weight[half:])  # 0 if one of them is
        hands = replace(sample, vis=sample.vis[:half] - sample.vis[half:], weight=together)
        half_width = math.ceil(SURE_NOISE / half / 2)
        power = np.where(sample.usual, _power(hands, sample.usual), 0.0)
        total, number = (_boxes(np.pad(v, half_width), 2 * half_width + 1) for v in (power, sample.usual.astype(float)))
        mean: np.ndarray = total / np.maximum(number, 1)
        return mean
    vis, weight = sample.vis, sample.weight
    lag = 4 if len(sample.usual) >= 32 else 2
    low, here, high = slice(0, -2 * lag), slice(lag, -lag), slice(2 * lag, None)
    with np.errstate(divide="ignore"):
        together = 6 / (1 / weight[:, low] + 4 / weight[:, here] + 1 / weight[:, high])  # 0 if one of them is
    second = vis[:, low] - 2 * vis[:, here] + vis[:, high]
    power = (together * np.abs(second) ** 2).sum(axis=0) / (12 * np.maximum((together > 0).sum(axis=0), 1))
    places = np.linspace(0, len(power) - 1, min(len(power), 33)).astype(int)
    half = max(4, len(power) // 8)
    near = [power[max(0, k - half) : k + half + 1] for k in places]
    medians = [float(np.median(part[part > 0])) if (part > 0).any() else 0.0 for part in near]
    level = np.interp(np.arange(len(power)), places, medians)
    padded: np.ndarray = np.pad(level, lag, mode="edge")
    return padded


def _power(sample: _Sample, channels: np.ndarray) -> np.ndarray:
    """Mean of w |V|^2 / 2 of each channel minus a straight line through some of them, over that of noise of 1, (nchan,)."""
    left = _left(sample, channels)
    number = np.maximum((sample.weight > 0).sum(axis=0), 1)
    power: np.ndarray = (sample.weight * np.abs(left) ** 2).sum(axis=0) / (2 * number * _expected(sample, channels))
    return power


def _left(sample: _Sample, channels: np.ndarray) -> np.ndarray:
    """Spectra without the straight line through some channels, (nspectrum, nchan)."""
    powers = np.vander(_abscissa(sample), 2, increasing=True)
    left: np.ndarray = sample.vis - (_fit(sample, channels, 1) @ powers.T).astype(np.complex64)
    return left


def _expected(sample: _Sample, channels: np.ndarray) -> np.ndarray:
    """Power of noise of 1: the fit takes some from its own channels, and adds some to the others, (nchan,)."""
    powers = np.vander(_abscissa(sample), 2, increasing=True)
    inverse = np.linalg.pinv(powers[channels].T @ powers[channels])
    fitted = np.einsum("ci,ij,cj->c", powers, inverse, powers)
    expected: np.ndarray = np.maximum(1 + np.where(channels, -fitted, fitted), 0.05)
    return expected


def _leave_out(sample: _Sample, noise: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave channels that stand out of the fit until nothing changes, beginning with `found`; return them and all strengths."""
    strengths = np.zeros(len(found))
    usual, number = sample.usual, np.maximum((sample.weight > 0).sum(axis=0), 1)
    noise = np.maximum(noise, 1e-30)
    for strength in STRENGTHS:
        channels = usual & ~found
        if channels.sum() < 4:
            break
        excess = (_power(sample, channels) / noise - 1) * np.sqrt(number)
        centre = (sample.weight * (_left(sample, channels) * sample.turn).real).sum(axis=0)
        variance = sample.weight.sum(axis=0) * noise * _expected(sample, channels)
        centre /= np.sqrt(np.maximum(variance, 1e-30))
        strengths = np.maximum(np.abs(centre), np.sqrt(LIMIT * np.maximum(excess, 0))) / LIMIT
        before, found = found, np.zeros(len(usual), bool)
        for mark in (excess, centre, -centre):
            found |= _standing_out(mark, usual, strength * float(np.abs(mark[usual]).max()))
        if strength == 0 and np.array_equal(before, found):
            break
    return found, strengths


def _standing_out(mark: np.ndarray, usual: np.ndarray, least: float) -> np.ndarray:
    """Channels, or runs of channels, whose mark is beyond `LIMIT` and `least`."""
    found, width = np.zeros(len(usual), bool), 1
    while width <= max(1, len(mark) // 8):
        free = usual & ~found
        number = _boxes(free.astype(float), width)
        sums = _boxes(np.where(free, mark, 0.0), width) / np.sqrt(np.maximum(number, 1))
        enough = number >= width / 2
        if not enough.any():
            break
        spread = min(
            max(1.0, _spread(sums[enough])), LARGEST_SPREAD
        )  # the noise is uncertain, and neighbouring channels may be correlated
        for first in np.flatnonzero(enough & (sums > max(LIMIT * spread, least))):
            found[first : first + width] |= usual[first : first + width]
        width *= 2
    return found


def _boxes(values: np.ndarray, width: int) -> np.ndarray:
    """Sums over every run of `width` values."""
    before = np.concatenate([[0.0], np.cumsum(values)])
    sums: np.ndarray = before[width:] - before[:-width]
    return sums


def _spread(values: np.ndarray) -> float:
    """Standard deviation of most of the values: from the shortest interval that holds `SHARE` of them."""
    ordered = np.sort(values)
    inside = max(2, math.ceil(SHARE * len(ordered)))
    if len(ordered) < inside:
        return 0.0
    return float((ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]).min()) / (2 * HALF_WIDTH)


def _is_line(first: int, last: int, nchan: int) -> bool:
    """Whether a run of channels that stand out is more than a bad edge of the window."""
    return last - first > 3 or (first > 1 and last < nchan - 2)


def _runs(found: np.ndarray) -> list[tuple[int, int]]:
    """First and last channel of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _without_lines(
    samples: Sequence[_Sample], found: Sequence[np.ndarray], strengths: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Channels of each window away from all lines, which every window that covers their frequencies leaves out.

    The margin is that of a Gaussian line, which stands out to where its strength is 1, to where it has `WING` of its peak.
    """
    spans = []
    for sample, lines, strength in zip(samples, found, strengths, strict=True):
        frequency = sample.frequency
        step = abs(float(np.median(np.diff(frequency))))
        for first, last in _runs(lines):
            wide, peak = last - first + 1, float(strength[first : last + 1].max())
            if not _is_line(first, last, len(lines)):
                margin = 0
            elif peak < FAINT:
                margin = max(2 * wide, len(lines) // 8)
            else:
                wing = 0.5 * (math.sqrt(math.log(WING) / -math.log(peak)) - 1)
                margin = max(2, math.ceil(wide * min(max(wing, LEAST_MARGIN), 1.0)))
            ends = sorted((float(frequency[first]), float(frequency[last])))
            spans.append((ends[0] - (margin + 0.5) * step, ends[1] + (margin + 0.5) * step))
    free = []
    for sample in samples:
        frequency, channels = sample.frequency, np.ones(len(sample.usual), bool)  # flags take care of themselves
        for low, high in spans:
            channels &= (frequency < low) | (frequency > high)
        for first, last in _runs(channels):
            if last - first < 2:  # too short to be worth its ends
                channels[first : last + 1] = False
        free.append(channels)
    return free


def _crossed(sample: _Sample, channels: np.ndarray, order: int) -> np.ndarray:
    """Square of the last coefficient of a polynomial for every spectrum, without the bias of noise.

    It is the product of two coefficients whose noise is independent: those of two hands, or of alternate groups of channels.
    """
    if sample.pairs:
        first, second = np.split(_fit(sample, channels, order)[:, order], 2)
    else:
        even = np.arange(len(channels)) // max(1, len(channels) // 16) % 2 == 0
        first, second = (_fit(sample, channels & half, order)[:, order] for half in (even, ~even))
    crossed: np.ndarray = (first * second.conj()).real
    return crossed


def _continuum(parts: Sequence[tuple[_Sample, np.ndarray]]) -> tuple[float, bool]:
    """The rms of the continuum, Jy, and whether it exceeds the noise; if not, the level that would exceed it."""
    crossed = np.concatenate([_crossed(sample, channels, 0) for sample, channels in parts])
    mean, error = float(crossed.mean()), float(crossed.std()) / math.sqrt(len(crossed))
    sure = mean > LIMIT * error
    return math.sqrt(mean if sure else LIMIT * error), sure


def _order(samples: Sequence[_Sample], free: Sequence[np.ndarray]) -> int:
    """Largest order up to 2 that the data require and the channels allow."""
    for order in (2, 1):
        crossed = np.concatenate([_crossed(s, channels, order) for s, channels in zip(samples, free, strict=True)])
        asked = crossed.mean() > LIMIT * crossed.std() / math.sqrt(len(crossed))
        fits = [continuum_fit(s.window, c, order) for s, c in zip(samples, free, strict=True)]
        if asked and all(fit.leverage <= 1 for fit in fits):
            return order
    return 0


def _seen(samples: Sequence[_Sample], found: Sequence[np.ndarray], restfreq: float | None) -> list[str]:
    """Say which channels stand out."""
    words = []
    for sample, lines in zip(samples, found, strict=True):
        if not lines.any():
            continue
        text = f"channels {ranges(np.flatnonzero(lines))} of spectral window {sample.source.spw} stand out"
        if restfreq:
            velocity = velocity_of(sample.frequency[lines], restfreq)
            text += f", {velocity.min():.1f} to {velocity.max():.1f} km/s"
        if len({s.source.path for s in samples}) > 1:
            text += f", in {sample.source.path}"
        words.append(text)
    return list(dict.fromkeys(words))
