"""Checks of single parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gpucube.fft_size import good_fft_size
from gpucube.schema.quantities import (
    ANGLE,
    FLUX_DENSITY,
    FREQUENCY,
    MEMORY,
    parse_direction,
    parse_quantity,
    parse_taper_width,
    plain_number,
)
from gpucube.schema.spw import parse_spw

SMALLEST_IMAGE = 32

LARGEST_IMAGE = 65536

PRODUCTS = ("image", "residual", "model", "psf", "dirty", "mask")


def _as_list(value: Any) -> list[Any]:
    """Several values: a list, an array, or text with commas; one value alone is a list of one."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, list | tuple) or getattr(value, "shape", ()) != ():
        return list(value)
    return [value]


def _pair(values: list[Any], what: str) -> list[Any]:
    if len(values) not in (1, 2):
        raise ValueError(f"{len(values)} values given; give one, or two for {what}")
    return values * 2 if len(values) == 1 else values


def _number(value: Any) -> Any:
    """Numbers in any coat: numpy's, or text such as "1e4"; pydantic checks what comes out."""
    value = plain_number(value)
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError as error:
            raise ValueError("a number is wanted") from error
        return int(number) if number.is_integer() else number
    return value


def _paths(value: Any) -> tuple[str, ...]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    paths = tuple(_path(item).rstrip("/") or "/" for item in listed)
    if not paths or not all(paths):
        raise ValueError("no MeasurementSet is named; give one path or several")
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path!r} is named twice")
    return paths


def _path(value: Any) -> str:
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise ValueError("a path is wanted")
    path = str(value)
    if any(ord(character) < 32 for character in path):
        raise ValueError("a path cannot hold a line break or another control character")
    return path


def _imagename(value: Any) -> str:
    path = _path(value)
    if not path.strip() or path.endswith("/"):
        raise ValueError("an output name is wanted, e.g. 'out/target' for out/target.image.fits")
    return path


def _field_name(value: Any) -> str:
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a field's number or name is wanted")
    if isinstance(value, int) and value < 0:
        raise ValueError("fields are numbered from 0")
    return str(value).strip()


def _spw(value: Any) -> str:
    value = plain_number(value)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError("text is wanted, e.g. '0' or '0:5~20;30~40,1'")
    parse_spw(text)
    return text.strip()


def _stokes(value: Any) -> str:
    wanted = "write 'I', 'pseudoI', or several of I, Q, U, V in this order, such as 'IQUV', 'IV' or 'QU'"
    if not isinstance(value, str):
        raise ValueError(wanted)
    if value.lower() == "pseudoi":
        return "pseudoI"
    ordered = "".join(name for name in "IQUV" if name in value.upper())
    if not ordered or value.upper() != ordered:
        raise ValueError(wanted)
    return ordered


def _channel(default: int | None, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value == "" or value is None:
            return default
        try:
            return _number(value)
        except ValueError as error:
            raise ValueError(f"a number of channels is wanted, e.g. {example}") from error

    return check


def _phasecenter(value: Any) -> tuple[Any, ...] | Literal[""]:
    if isinstance(value, str):
        return parse_direction(value) if value.strip() else ""
    if isinstance(value, list | tuple) and len(value) == 3 and value[2] in ("FK5", "ICRS"):
        return tuple(value)
    raise ValueError("a direction is wanted, e.g. 'J2000 12h30m00s +30d00m00s'")


def _restfreq(value: Any) -> float | None:
    values = [] if value is None or value == "" else _as_list(value)
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("one rest frequency is wanted, e.g. '230.538GHz'")
    frequency = parse_quantity(values[0], FREQUENCY)
    if not frequency > 0:
        raise ValueError(f"{values[0]!r} is not positive; write e.g. '230.538GHz'")
    return frequency


def _imsize(value: Any) -> tuple[int, int]:
    sizes = []
    for item in _pair(_as_list(value), "nx and ny"):
        size = _number(item)
        if not isinstance(size, int | float) or size != size // 1:
            raise ValueError("a whole number of pixels is wanted, e.g. 512 or [512, 256]")
        if size > LARGEST_IMAGE:
            raise ValueError(f"{size} is too large; the largest size is {LARGEST_IMAGE}")
        if size < SMALLEST_IMAGE or size % 2:
            good = good_fft_size(max(int(size), SMALLEST_IMAGE))
            raise ValueError(f"{size} must be even and at least {SMALLEST_IMAGE}; the next good size is {good}")
        sizes.append(int(size))
    return sizes[0], sizes[1]


def _cell(value: Any) -> tuple[float, float]:
    cells = []
    for item in _pair(_as_list(value), "x and y"):
        cell = parse_quantity(item, ANGLE, unit_required=True)
        if not cell > 0:
            raise ValueError(f"{item!r} is not positive; write e.g. '0.2arcsec'")
        cells.append(cell)
    return cells[0], cells[1]


def _uvtaper(value: Any) -> tuple[float, float, float] | tuple[()]:
    values = [] if value is None else [item for item in _as_list(value) if item != ""]
    if len(values) > 3:
        raise ValueError("one to three values are wanted: bmaj, bmin, bpa, e.g. ['5klambda', '3klambda', '45deg']")
    if not values:
        return ()
    along = parse_taper_width(values[0])
    across = parse_taper_width(values[1]) if len(values) > 1 else along
    return along, across, _position_angle(values[2]) if len(values) > 2 else 0.0


def _position_angle(value: Any) -> float:
    """Degrees; a bare number is in degrees."""
    number = plain_number(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return parse_quantity(number * 3600.0, ANGLE) / 3600.0
    return parse_quantity(value, ANGLE, unit_required=True) / 3600.0


def _threshold(value: Any) -> float:
    threshold = parse_quantity(value, FLUX_DENSITY)
    if threshold < 0:
        raise ValueError("a threshold cannot be negative; write e.g. '3mJy', or 0 for none")
    return threshold


def _restoringbeam(value: Any) -> tuple[float, float, float] | Literal["", "common"]:
    values = [] if value is None else [item for item in _as_list(value) if item != ""]
    if not values:
        return ""
    if values == ["common"]:
        return "common"
    example = "write '', 'common', '1arcsec' or ['1arcsec', '0.8arcsec', '30deg']"
    if len(values) not in (1, 3):
        raise ValueError(f"{len(values)} values given; {example}")
    try:
        bmaj = parse_quantity(values[0], ANGLE, unit_required=True)
        bmin = parse_quantity(values[1], ANGLE, unit_required=True) if len(values) == 3 else bmaj
        bpa = _position_angle(values[2]) if len(values) == 3 else 0.0
    except ValueError as error:
        raise ValueError(f"{str(error).partition(';')[0]}; {example}") from error
    if not bmaj >= bmin > 0:
        raise ValueError(f"the major axis must not be smaller than the minor one, nor either 0; {example}")
    return bmaj, bmin, bpa


def _chunksize(value: Any) -> Any:
    if value == "auto":
        return value
    wanted = "write 'auto', a number of channels from 1, or -1 for one chunk per worker"
    try:
        size = _number(value)
    except ValueError as error:
        raise ValueError(wanted) from error
    if not isinstance(size, int) or size < -1 or size == 0:
        raise ValueError(wanted)
    return size


def _workers(value: Any) -> Any:
    return None if value == "" else value if value is None else _number(value)


def _memory(value: Any) -> int | None:
    if value is None or value == "":
        return None
    size = int(parse_quantity(value, MEMORY))
    if size < 1:
        raise ValueError(f"{value!r} is not positive; write e.g. '8GB'")
    return size


def _products(value: Any) -> tuple[str, ...]:
    named = [item for item in _as_list(value) if item != ""]
    for name in named:
        if name not in PRODUCTS:
            raise ValueError(f"{name!r} is none of {', '.join(PRODUCTS)}")
    if not named:
        raise ValueError(f"at least one of {', '.join(PRODUCTS)} is wanted")
    return tuple(name for name in PRODUCTS if name in named)
