"""Regions drawn in CARTA, CASA or DS9: which pixels and which channels of a cube they select.

In: the text of regions, in CASA's format (CRTF: https://casadocs.readthedocs.io, "Region file format") or in DS9's. Out:
`RegionMask`, which gives the pixels of one plane at a time. A pixel is selected if its centre lies in the region or on
its edge; a channel, if the range of frequency reaches into it. Both are CASA's rules (`bench/peers/region_answers.py`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.constants import ARCSEC_PER_RADIAN
from gpucube.data.user_image import is_frame_of
from gpucube.errors import GpucubeError
from gpucube.schema import quantities
from gpucube.sky.directions import CELESTIAL_FRAMES, Direction, frame_rotation, unit_vectors, uvw_axes
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.sky.spectral_types import frequency_of
from gpucube.text import in_words

EDGE = 1e-5
"""Pixels or channels. A centre that lies outside by no more than this is on the edge: CASA computes in float32."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An ellipse, a ring of two ellipses, or a polygon, in pixels counted from 0."""

    x: tuple[float, ...]  # of the centre, or of the corners
    y: tuple[float, ...]
    radii: tuple[float, float] = (0.0, 0.0)  # along and across `angle`; (0, 0) for a polygon
    angle: float = 0.0  # radians, from +x towards +y
    hole: float = 0.0  # of a ring: the inner radius over the outer

    def bounds(self, shape: tuple[int, int]) -> tuple[slice, slice] | None:
        """The rows and columns of an image (ny, nx) around the shape; None if it lies outside."""
        reach = max(self.radii) + EDGE
        if not all(map(math.isfinite, (*self.x, *self.y, reach))):
            return None
        slices = []
        for values, n in ((self.y, shape[0]), (self.x, shape[1])):
            low, high = max(0, math.ceil(min(values) - reach)), min(n - 1, math.floor(max(values) + reach))
            if low > high:
                return None
            slices.append(slice(low, high + 1))
        return slices[0], slices[1]

    def inside(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Whether pixels lie inside or on the edge, bool of the shape to which `y` and `x` broadcast."""
        return self._in_polygon(y, x) if self.radii == (0.0, 0.0) else self._in_ellipse(y, x)

    def _in_ellipse(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along, across = (x - self.x[0]) * cos + (y - self.y[0]) * sin, (y - self.y[0]) * cos - (x - self.x[0]) * sin
        distance = np.hypot(along / self.radii[0], across / self.radii[1])  # 1 on the edge
        edge = EDGE / min(self.radii)
        found: np.ndarray = distance <= 1.0 + edge
        return found & (distance > self.hole + edge) if self.hole else found

    def _in_polygon(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Even-odd rule; on an edge counts as inside."""
        found = np.zeros(np.broadcast_shapes(y.shape, x.shape), bool)
        on_edge = found.copy()
        corners = list(zip(self.x, self.y, strict=True))
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = math.hypot(x1 - x0, y1 - y0)
            if length == 0.0:
                continue
            off = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
            along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
            on_edge |= (np.abs(off) <= EDGE) & (along >= -EDGE) & (along <= length + EDGE)
            crosses = (y0 > y) != (y1 > y)
            found ^= crosses & (off * (1.0 if y1 > y0 else -1.0) < 0.0)
        return found | on_edge


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region, and where in the cube it counts."""

    shape: Shape
    subtracts: bool = False  # whether it takes its pixels out of the regions before it
    channels: tuple[bool, ...] = ()  # for every channel whether it counts; empty for all
    stokes: frozenset[str] = frozenset()  # empty for all


@dataclass(frozen=True, kw_only=True)
class RegionMask:
    """The regions of one text or file."""

    regions: tuple[Region, ...]
    image: tuple[int, int]  # (ny, nx)
    warnings: tuple[str, ...] = ()

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        """Pixels where components may be found, bool (ny, nx)."""
        allowed = np.full(self.image, bool(self.regions) and self.regions[0].subtracts)
        for region in self.regions:
            where = region.shape.bounds(self.image)
            here = (not region.channels or region.channels[channel]) and (
                not region.stokes or stokes.removeprefix("pseudo") in region.stokes
            )
            if where is None or not here:
                continue
            y, x = np.ogrid[where]
            inside = region.shape.inside(y, x)
            allowed[where] = allowed[where] & ~inside if region.subtracts else allowed[where] | inside
        return allowed


def load_regions(text: str, source: str, geometry: ImageGeometry, axis: SpectralAxis) -> RegionMask:
    """Read regions.

    Parameters
    ----------
    text : str
        CRTF, with or without its first line ``#CRTFv0``, or DS9.
    source : str
        What messages call it.
    geometry, axis : ImageGeometry, SpectralAxis
        The axes of the cube.

    Raises
    ------
    GpucubeError
        The text is not understood, or no region lies in the cube.
    """
    reader = _Reader(source, geometry, axis)
    regions = tuple(reader.crtf(text) if is_crtf(text) else reader.ds9(text))
    if not regions:
        raise GpucubeError(f"{source} holds no region: expected lines such as 'circle[[100pix, 100pix], 20pix]'")
    outside = [n for n, r in enumerate(regions, 1) if not (r.shape.bounds(geometry.shape) and any(r.channels or (1,)))]
    if len(outside) == len(regions):
        raise GpucubeError(f"{source} lies outside the cube: check its coordinates and its range of channels")
    remarks = tuple(f"region {number} of {source} lies outside the cube" for number in outside)
    return RegionMask(regions=regions, image=geometry.shape, warnings=remarks)


def is_crtf(text: str) -> bool:
    """Whether text is in CASA's format rather than in DS9's: its shapes have square brackets."""
    return text.lstrip().startswith("#CRTF") or re.search(r"\w\s*\[\s*\[", text) is not None


_CRTF_LINE = re.compile(r"\s*([+-]?)\s*(ann\s+)?([A-Za-z]+)\s*(\[.*)", re.DOTALL)
_PROPERTY = re.compile(r"(\w+)\s*=\s*(\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^,\s]+)")
_DS9_SHAPE = re.compile(r"\s*([+-]?)\s*([A-Za-z]+)\s*[( ]([^)#]*)\)?")
_DRAWINGS = frozenset(
    {"line", "vector", "text", "symbol", "point", "ruler", "compass", "projection", "segment", "composite"}
)
"""What marks a place and selects no pixels."""
_DS9_FRAMES = {"fk5": "FK5", "j2000": "FK5", "icrs": "ICRS", "fk4": "FK4", "b1950": "FK4", "galactic": "GALACTIC"} | {
    "ecliptic": "ECLIPTIC", "image": "", "physical": "", "logical": "",
}  # fmt: skip
_DS9_UNITS = {'"': "arcsec", "'": "arcmin", "d": "deg", "r": "rad", "i": "pix", "p": "pix"}
_CRTF_SHAPES = ("circle", "annulus", "ellipse", "box", "centerbox", "rotbox", "poly")


@dataclass(frozen=True)
class _Reader:
    source: str
    geometry: ImageGeometry
    axis: SpectralAxis

    def _wrong(self, what: str) -> GpucubeError:
        return GpucubeError(f"{self.source}: {what}")

    # CASA

    def crtf(self, text: str) -> Iterator[Region]:
        common: dict[str, str] = {}
        for line in re.split(r"[;\n]", text):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if line.lower().startswith("global"):
                common |= _properties(line[6:])
                continue
            match = _CRTF_LINE.fullmatch(line)
            if match is None:
                raise self._wrong(f"{line!r} is not a region; expected e.g. 'circle[[100pix, 100pix], 20pix]'")
            sign, drawn, name, rest = match.groups()
            if drawn or name.lower() in _DRAWINGS:
                continue
            try:
                values, rest = _bracketed(rest)
                own = common | _properties(rest)
                shape = self._crtf_shape(name.lower(), values, own.get("coord", ""))
                channels = self._channels(own)
            except (ValueError, IndexError, TypeError) as error:
                raise self._wrong(f"{line!r} is not understood: {error}") from None
            stokes = frozenset(re.findall(r"[A-Za-z]+", own.get("corr", "")))
            yield Region(shape=shape, subtracts=sign == "-", channels=channels, stokes=stokes)

    def _crtf_shape(self, name: str, values: Sequence[Any], frame: str) -> Shape:
        if name not in _CRTF_SHAPES:
            raise ValueError(f"{name!r} is not a shape; expected {in_words(_CRTF_SHAPES)}")
        if name == "poly":
            return _polygon([self._point(pair, frame) for pair in values])
        centre = self._point(values[0], frame)
        if name == "box":
            (x0, y0), (x1, y1) = centre, self._point(values[1], frame)
            return _polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        sizes = values[1] if isinstance(values[1], list) else [values[1]] * 2
        angle = quantities.parse_quantity(values[2], quantities.POSITION_ANGLE) if len(values) > 2 else 0.0
        angle /= ARCSEC_PER_RADIAN
        if name == "ellipse":  # the first radius points to the north, and the angle turns it to the east
            return _ellipse(centre, self._along_y(sizes[0]), self._along_x(sizes[1]), angle + math.pi / 2)
        if name == "annulus":
            hole = self._along_x(sizes[0]) / self._along_x(sizes[1])
            return _ellipse(centre, self._along_x(sizes[1]), self._along_y(sizes[1]), hole=hole)
        if name == "circle":
            return _ellipse(centre, self._along_x(sizes[0]), self._along_y(sizes[0]))
        return _box(centre, self._along_x(sizes[0]), self._along_y(sizes[1]), angle)

    def _channels(self, given: Mapping[str, str]) -> tuple[bool, ...]:
        """For every channel whether `range` reaches into it."""
        if "range" not in given:
            return ()
        ends = [word.strip() for word in given["range"].strip("[]").split(",")]
        if len(ends) != 2:
            raise ValueError("expected a range such as range=[1km/s, 5km/s] or range=[3chan, 7chan]")
        number = np.arange(self.axis.nchan)
        if all(end.lower().endswith(("chan", "channel")) for end in ends):
            low, high = sorted(float(re.sub("chan.*", "", end.lower())) for end in ends)
            return tuple((number >= low - EDGE) & (number <= high + EDGE))
        frequencies = sorted(self._frequency(end, given) for end in ends)
        frame = given.get("frame", "")
        if frame and not is_frame_of(self.axis, frame):
            raise ValueError(f"its range is in the frame {frame} and the cube in {self.axis.frame.specsys}")
        rising = self.axis.nchan < 2 or self.axis.frequency[-1] > self.axis.frequency[0]
        first, last = frequencies if rising else frequencies[::-1]
        way, half = (1.0 if rising else -1.0), self.axis.width / 2
        begins, ends_after = way * self.axis.frequency - half, way * self.axis.frequency + half
        edge = EDGE * self.axis.width
        return tuple((ends_after > way * first + edge) & (begins <= way * last + edge))

    def _frequency(self, text: str, given: Mapping[str, str]) -> float:
        try:
            return quantities.parse_quantity(text, quantities.FREQUENCY)
        except ValueError:
            velocity = quantities.parse_quantity(text, quantities.VELOCITY)
        restfreq = (
            quantities.parse_quantity(given["restfreq"], quantities.FREQUENCY)
            if "restfreq" in given
            else self.axis.restfreq
        )
        if not restfreq:
            raise ValueError("its velocities need a rest frequency: give `restfreq`")
        kind = {"RADIO": "VRAD", "OPTICAL": "VOPT", "Z": "VOPT"}.get(given.get("veltype", "RADIO").upper())
        if kind is None:
            raise ValueError(f"veltype={given['veltype']} is not supported; expected RADIO or OPTICAL")
        return float(frequency_of(kind, np.array([velocity]), restfreq)[0])

    # DS9

    def ds9(self, text: str) -> Iterator[Region]:
        frame = ""
        for line in re.split(r"[;\n]", text):
            line = line.strip()
            word = line.split("#")[0].strip().lower()
            if not word or word.startswith("global"):
                continue
            if word in _DS9_FRAMES:
                frame = word
                continue
            match = _DS9_SHAPE.match(line)
            if match is None:
                raise self._wrong(f"{line!r} is not a region; expected e.g. 'circle(100,100,20)' or 'fk5; circle(...)'")
            sign, name, arguments = match.groups()
            if name.lower() in _DRAWINGS:
                continue
            try:
                shape = self._ds9_shape(
                    name.lower(), re.split(r"[,\s]+", arguments.strip()), _DS9_FRAMES[frame or "image"]
                )
            except (ValueError, IndexError) as error:
                raise self._wrong(f"{line!r} is not understood: {error}") from None
            yield Region(shape=shape, subtracts=sign == "-")

    def _ds9_shape(self, name: str, words: Sequence[str], frame: str) -> Shape:
        def point(position: int) -> tuple[float, float]:
            x, y = words[position], words[position + 1]
            if not frame:
                return float(x) - 1.0, float(y) - 1.0  # DS9 counts from 1
            return self._point([word if re.search("[a-z:]", word) else f"{word}deg" for word in (x, y)], frame)

        def length(position: int) -> str:
            word = words[position]
            unit = _DS9_UNITS.get(word[-1])
            return word[:-1] + unit if unit else word + ("deg" if frame else "pix")

        angle = math.radians(float(words[4])) if name in ("ellipse", "box") and len(words) > 4 else 0.0
        match name:
            case "polygon":
                return _polygon([point(position) for position in range(0, len(words), 2)])
            case "circle":
                return _ellipse(point(0), self._along_x(length(2)), self._along_y(length(2)))
            case "annulus":
                hole, outer = length(2), length(len(words) - 1)
                ratio = self._along_x(hole) / self._along_x(outer)
                return _ellipse(point(0), self._along_x(outer), self._along_y(outer), hole=ratio)
            case "ellipse":
                return _ellipse(point(0), self._along_x(length(2)), self._along_y(length(3)), angle)
            case "box":
                return _box(point(0), self._along_x(length(2)), self._along_y(length(3)), angle)
        raise ValueError(f"{name!r} is not a shape; expected circle, annulus, ellipse, box or polygon")

    # both

    def _point(self, pair: Sequence[str], frame: str) -> tuple[float, float]:
        """A point in pixels; NaN if it lies behind the sky."""
        x, y = pair
        if x.endswith("pix") and y.endswith("pix"):
            return float(x[:-3]), float(y[:-3])
        name = CELESTIAL_FRAMES.get(frame.upper(), frame.upper()) or self.geometry.centre.frame
        if name not in (*CELESTIAL_FRAMES.values(), "FK4"):
            raise ValueError(f"coord={frame} is not supported; expected J2000, ICRS, B1950 or GALACTIC")
        ra, dec, _ = quantities.parse_direction(f"J2000 {x} {y}")
        point, centre = Direction(ra=ra, dec=dec, frame=name), self.geometry.centre
        vector = frame_rotation(point, centre) @ unit_vectors(np.array([ra]), np.array([dec]))[0]
        east, north, up = uvw_axes(centre.ra, centre.dec) @ vector
        if up <= 0:
            return math.nan, math.nan
        return (
            float(self.geometry.nx // 2 - east / self.geometry.cell_x),
            float(self.geometry.ny // 2 + north / self.geometry.cell_y),
        )

    def _along_x(self, text: str) -> float:
        return _in_pixels(text, self.geometry.cell_x)

    def _along_y(self, text: str) -> float:
        return _in_pixels(text, self.geometry.cell_y)


def _in_pixels(text: str, cell: float) -> float:
    """A length in pixels."""
    if text.endswith("pix"):
        return float(text[:-3])
    return quantities.parse_quantity(text, quantities.ANGLE) / (cell * ARCSEC_PER_RADIAN)


def _ellipse(centre: tuple[float, float], along: float, across: float, angle: float = 0.0, hole: float = 0.0) -> Shape:
    if not (along > 0 and across > 0 and 0 <= hole < 1):
        raise ValueError("a radius is not above 0")
    return Shape(x=centre[:1], y=centre[1:], radii=(along, across), angle=angle, hole=hole)


def _polygon(corners: Sequence[tuple[float, float]]) -> Shape:
    if len(corners) < 3:
        raise ValueError(f"{len(corners)} corners; expected three or more")
    return Shape(x=tuple(x for x, _ in corners), y=tuple(y for _, y in corners))


def _box(centre: tuple[float, float], width: float, height: float, angle: float) -> Shape:
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(i * width / 2, j * height / 2) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return _polygon([(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in corners])


def _properties(text: str) -> dict[str, str]:
    return {name.lower(): value.strip("'\"") for name, value in _PROPERTY.findall(text)}


def _bracketed(text: str) -> tuple[list[Any], str]:
    """Read the list in brackets with which a text begins. Return it, with items of text or lists, and what follows it."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth == 0:
            quoted = re.sub(r"[^\[\],]+", lambda word: json.dumps(word.group().strip()), text[: position + 1])
            listed: list[Any] = json.loads(quoted.replace('""', ""))
            return listed, text[position + 1 :]
    raise ValueError("a bracket is not closed")
