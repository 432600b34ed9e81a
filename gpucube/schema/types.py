"""The types of the parameters: what users may write for each, and the parser that turns it into the base form.

A parser takes what the user wrote (a Python value, the text of a command-line option, or a value from YAML) and returns
the base form: plain Python in the documented unit. It accepts the base form too, so that checked parameters can be
checked again. A wrong value raises `ValueError` with what is wrong and what would be right, or `refused()` if the text of
the type's `Written` is enough. `gpucube.schema.validation` makes the message from it.
"""

from __future__ import annotations

import ast
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gpucube.fft_size import good_fft_size
from gpucube.schema import quantities
from gpucube.schema.validation import Written
from gpucube.text import did_you_mean, in_words

if TYPE_CHECKING:
    import numpy as np
    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity

PathLike: TypeAlias = str | os.PathLike[str]
QuantityLike: TypeAlias = "str | float | Quantity"
DirectionLike: TypeAlias = "str | SkyCoord | Sequence[float | str]"
MaskLike: TypeAlias = "PathLike | np.ndarray | Sequence[float]"

SMALLEST_IMAGE = 32
LARGEST_IMAGE = 65536
PRODUCTS = ("image", "residual", "model", "psf", "dirty", "mask", "pb", "image.pbcor", "sumwt", "startmodel")
"""Every cube that can be written."""


def refused() -> PydanticCustomError:
    """Make an error without a message of its own. The user is shown what the parameter accepts."""
    return PydanticCustomError("refused", "not accepted")


def as_list(value: Any) -> list[Any]:
    """Turn several values (a list, an array, text with commas) or a single one into a list.

    Empty text stands for "not given" and is left out, and so is None in place of a list.
    """
    if isinstance(value, str):
        quotes = "'\"" if value.lstrip().startswith(("[", "(")) else ""  # a list as Python writes it
        values: list[Any] = [part.strip(" " + quotes) for part in value.strip(" []()").split(",")]
    elif isinstance(value, list | tuple) or getattr(value, "shape", ()) != ():
        values = list(value)
    else:
        values = [] if value is None else [value]
    return [item for item in values if not (isinstance(item, str) and not item.strip())]


def as_pair(value: Any, names: str) -> list[Any]:
    """Turn one value or two into a list of two."""
    values = as_list(value)
    if len(values) not in (1, 2):
        raise ValueError(f"{len(values)} values are given; expected one, or two for {names}")
    return values * 2 if len(values) == 1 else values


def parse_number(value: Any) -> Any:
    """Turn numpy's numbers and text such as ``"1e4"`` into a number of Python; pydantic checks the rest."""
    value = quantities.plain_number(value)
    if isinstance(value, bool):
        raise refused()
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise refused() from None
        return int(number) if number.is_integer() else number
    return value


def parse_positive(value: Any, kind: quantities.Kind) -> float:
    """Turn a quantity that must be above 0 into base units."""
    number = quantities.parse_quantity(value, kind)
    if not number > 0:
        raise ValueError(f"{value!r} is not positive; {kind.expected}")
    return number


def or_default(parse: Callable[[Any], Any], default: Any = None) -> Callable[[Any], Any]:
    """Make a parser that takes None and empty text for the default, as tclean does."""

    def parse_or_default(value: Any) -> Any:
        return default if value is None or (isinstance(value, str) and not value.strip()) else parse(value)

    return parse_or_default


def refuse_zero(value: int) -> int:
    """Refuse 0, which lies between the numbers that a parameter accepts."""
    if value == 0:
        raise refused()
    return value


_NOT_ZERO = AfterValidator(refuse_zero)
_QUANTITIES = "QuantityLike | Sequence[QuantityLike]"

Integer = Annotated[int, Written("int", "N", parse=parse_number)]
Real = Annotated[float, Written("float", "X", parse=parse_number)]
FromZeroOrAll = Annotated[int, Field(ge=-1), Written("int", "N", "a whole number from 0, or -1", parse_number)]
FromOneOrAll = Annotated[
    int, Field(ge=-1), _NOT_ZERO, Written("int", "N", "a whole number from 1, or -1", parse_number)
]


# Data


def parse_path(value: Any) -> str:
    """Check a path. Whether the file exists is checked where it is used."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise refused()
    return one_line(path)


def one_line(text: str) -> str:
    """Refuse line breaks and other control characters, which would break a message or a FITS header into pieces."""
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("expected text without line breaks or other control characters")
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise ValueError(f"expected text in the encoding of the system, which is {sys.getfilesystemencoding()}")
    return text


def parse_paths(value: Any) -> tuple[str, ...]:
    """Check the paths of MeasurementSets."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    paths = tuple(parse_path(item).rstrip("/") or "/" for item in listed)
    if not paths or not all(paths):
        raise refused()
    real = [os.path.realpath(path) for path in paths]
    for path in paths:
        if real.count(os.path.realpath(path)) > 1:
            raise ValueError(f"{path!r} is named twice")
        _refuse_slips(path)
    return paths


def _refuse_slips(path: str) -> None:
    """Refuse the second number of ``--imsize 512 256``, and several paths in one word, unless such a file exists."""
    if os.path.lexists(path):
        return
    if re.fullmatch(r"[\d.]+[a-z\"']*", path):
        raise ValueError(
            f"{path!r} is not a MeasurementSet; two values are written with a comma, as in `imsize=512,256`"
        )
    if "," in path:
        raise ValueError(f"{path!r} does not exist; name several MeasurementSets one by one, without commas")


def parse_imagename(value: Any) -> str:
    """Check the beginning of the products' names."""
    path = parse_path(value)
    if not path.strip() or path.endswith("/"):
        raise refused()
    return path


def selection_text(check: Callable[[str], Any]) -> Callable[[Any], str | tuple[str, ...]]:
    """Make a parser of selections: text or a number, or a list of them with one for each MeasurementSet, as tclean has it.

    A list may also be text as Python writes it, ``"['0', '1']"``. An empty list selects everything, as empty text does.
    """

    def parse_text(value: Any) -> str:
        value = quantities.plain_number(value)
        if isinstance(value, bool) or not isinstance(value, str | int) or (isinstance(value, int) and value < 0):
            raise refused()
        text = str(value).strip()
        check(text)
        return text

    def parse(value: Any) -> str | tuple[str, ...]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value.strip())
        if not isinstance(value, list | tuple) and getattr(value, "shape", ()) == ():
            return parse_text(value)
        texts = tuple(parse_text(item) for item in value)
        return texts if len(texts) > 1 else "".join(texts)

    return parse


def any_text(text: str) -> None:
    """Check the text of a selection. Its meaning is checked when the MeasurementSet is open."""
    one_line(text)


LIKE_REGIONS = re.compile(r"\b(circle|annulus|ellipse|box|centerbox|rotbox|poly|polygon)\s*[\[(]", re.IGNORECASE)
"""What text that describes regions contains."""

_ABOVE = re.compile(r"\s*[\"']?(.+?)[\"']?\s*(>=|<=|>|<)\s*([-+\d.eE]+)\s*")


def is_region_text(item: str) -> bool:
    """Whether a part of a mask describes regions itself, rather than naming a file."""
    return LIKE_REGIONS.search(item) is not None and not os.path.lexists(item)


def mask_file(item: str) -> tuple[str, tuple[str, float] | None]:
    """The file of a part of a mask, and the comparison with its pixels, as in ``"out.image.fits > 0.003"``."""
    match = None if os.path.lexists(item) else _ABOVE.fullmatch(item)
    if match is None:
        return item, None
    with suppress(ValueError):
        return match[1], (match[2], float(match[3]))
    return item, None


def parse_one_path(value: Any) -> str:
    """Take a path, alone or in a list."""
    return parse_path(value[0] if isinstance(value, list | tuple) and len(value) == 1 else value)


def mask_items(mask: str | tuple[str, ...]) -> tuple[str, ...]:
    """The parts of a mask in its base form."""
    return (mask,) if isinstance(mask, str) and mask else tuple(mask)


def mask_files(mask: str | tuple[str, ...]) -> list[str]:
    """The files that a mask in its base form names."""
    return [mask_file(item)[0] for item in mask_items(mask) if not is_region_text(item)]


def parse_mask(value: Any) -> str | tuple[str, ...]:
    """Turn a mask into its parts: paths, thresholds on images, and texts of regions. Boxes and circles become text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(value.strip())
    if getattr(value, "ndim", 0) == 1 and not hasattr(value, "to_value"):
        value = value.tolist()
    if value is None:
        return ""
    if not isinstance(value, list | tuple):
        if isinstance(value, str) and is_region_text(value):
            return "; ".join(one_line(line.strip()) for line in value.strip().splitlines())
        return parse_path(value)
    numbers = [quantities.plain_number(item) for item in value]
    if numbers and all(isinstance(item, int | float) and not isinstance(item, bool) for item in numbers):
        return _shape_in_pixels(numbers)
    parts = tuple(part for item in value for part in mask_items(parse_mask(item)))
    return parts[0] if len(parts) == 1 else parts


def _shape_in_pixels(numbers: Sequence[float]) -> str:
    """CASA's text of a box (x and y of two corners) or a circle (x and y of the centre, radius)."""
    if len(numbers) == 4:
        x0, y0, x1, y1 = numbers
        return f"box[[{x0}pix, {y0}pix], [{x1}pix, {y1}pix]]"
    if len(numbers) == 3:
        x, y, radius = numbers
        return f"circle[[{x}pix, {y}pix], {radius}pix]"
    raise ValueError(
        f"{len(numbers)} numbers are not a region: expected x0, y0, x1, y1 of a box, or x, y, r of a circle"
    )


Mask = Annotated[
    str | tuple[str, ...],
    Written(
        "MaskLike | Sequence[MaskLike]",
        "MASK",
        "an image (FITS or CASA), a file or a text of regions (CRTF or DS9), in Python an array, or several of these",
        parse_mask,
    ),
]
ImageFile = Annotated[
    str, Written("PathLike", "IMAGE", "the path of a FITS or CASA image", or_default(parse_one_path, ""))
]
Folder = Annotated[str, Written("PathLike", "DIR", "the path of a folder", parse_path)]
Address = Annotated[
    str,
    Written("str", "ADDRESS", "an address such as 'tcp://host:8786'"),
    AfterValidator(str.strip),
    AfterValidator(one_line),
]
Paths = Annotated[
    tuple[str, ...],
    Written("PathLike | Sequence[PathLike]", "VIS", "the path of a MeasurementSet, or several paths", parse_paths),
]
Imagename = Annotated[str, Written("PathLike", "OUT", "a path without ending, such as 'out/target'", parse_imagename)]
_SELECTION = "int | str | Sequence[int | str]"
FieldName = Annotated[
    str | tuple[str, ...],
    Written(
        _SELECTION, "FIELD", "names or numbers of fields, such as '3C286', 'M3*' or '0,2~3'", selection_text(any_text)
    ),
]
Spw = Annotated[
    str | tuple[str, ...],
    Written(_SELECTION, "SPW", "text such as '0', '0,2', '0~3', '*' or '0:5~20;30~40,1'", selection_text(any_text)),
]
Contsubspw = Annotated[
    str | tuple[str, ...],
    Written(
        "str | Sequence[str]",
        "SPW",
        "text such as '0:5~20;40~59', '*:1.41~1.42GHz' or '0:-50~10km/s;90~150km/s'",
        selection_text(any_text),
    ),
]
Scan = Annotated[
    str | tuple[str, ...],
    Written(_SELECTION, "SCAN", "numbers such as '3', '1~4,7' or '>=3'", selection_text(any_text)),
]
Timerange = Annotated[
    str | tuple[str, ...],
    Written(
        "str | Sequence[str]",
        "TIME",
        "times such as '2019/03/21/04:05:06~04:35:00' or '>04:05:06'",
        selection_text(any_text),
    ),
]
Uvrange = Annotated[
    str | tuple[str, ...],
    Written("str | Sequence[str]", "UVRANGE", "distances such as '<100m' or '5~20klambda'", selection_text(any_text)),
]
Antenna = Annotated[
    str | tuple[str, ...],
    Written(
        _SELECTION,
        "ANTENNA",
        "antennas or baselines such as 'DV01', '0~3&', 'DV*&DA*' or '!DV05'",
        selection_text(any_text),
    ),
]
Intent = Annotated[
    str | tuple[str, ...],
    Written(
        "str | Sequence[str]",
        "INTENT",
        "intents such as 'OBSERVE_TARGET#ON_SOURCE' or '*TARGET*'",
        selection_text(any_text),
    ),
]


# Image and spectral axis


def parse_stokes(value: Any) -> str:
    """Turn a selection of Stokes parameters or of parallel hands into capitals."""
    written = value.strip().upper() if isinstance(value, str) else ""
    if written == "PSEUDOI":
        return "pseudoI"
    if written in ("RR", "LL", "XX", "YY", "RRLL", "XXYY"):
        return written
    if not written or written != "".join(name for name in "IQUV" if name in written):
        raise refused()
    return written


def parse_along_axis(value: Any) -> Any:
    """Turn `start` or `width` into a number of channels, or into its kind and its value in Hz or m/s."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] in ("frequency", "velocity"):
        return value[0], float(value[1])  # the base form
    number = quantities.plain_number(value)
    if isinstance(number, int | float) or (isinstance(number, str) and re.fullmatch(r"\s*[+-]?\d+\s*", number)):
        return parse_number(number)
    for kind, name in ((quantities.VELOCITY, "velocity"), (quantities.FREQUENCY, "frequency")):
        with suppress(ValueError):
            return name, quantities.parse_quantity(value, kind)
    raise refused()


def parse_phasecenter(value: Any) -> quantities.BaseDirection | Literal["", "TRACKFIELD"] | int:
    """Turn a direction into its base form; the number of a field, empty text and TRACKFIELD stay as they are."""
    number = quantities.plain_number(int(value) if isinstance(value, str) and value.strip().isdigit() else value)
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    word = value.strip().upper() if isinstance(value, str) else None
    if word == "" or word == "TRACKFIELD":
        return word  # type: ignore[return-value]  # mypy does not narrow it
    return quantities.parse_direction(value)


def parse_restfreq(value: Any) -> float | None:
    """Turn a rest frequency into Hz. Of a list, which tclean accepts too, the first is used."""
    values = as_list(value)
    return parse_positive(values[0], quantities.FREQUENCY) if values else None


def parse_imsize(value: Any) -> tuple[int, int]:
    """Turn one size or two into (nx, ny)."""
    nx, ny = (_image_size(item) for item in as_pair(value, "nx and ny"))
    return nx, ny


def _image_size(value: Any) -> int:
    size = parse_number(value)
    if not isinstance(size, int | float) or size != size // 1:
        raise refused()
    if size > LARGEST_IMAGE:
        raise ValueError(f"{size} is too large; the largest size is {LARGEST_IMAGE}")
    if size < SMALLEST_IMAGE or size % 2:
        good = good_fft_size(max(int(size), SMALLEST_IMAGE))
        raise ValueError(f"{size} must be even and at least {SMALLEST_IMAGE}; the next good size is {good}")
    return int(size)


def parse_cell(value: Any) -> tuple[float, float]:
    """Turn one pixel size or two into (x, y) in arcsec."""
    x, y = (parse_positive(item, quantities.ANGLE) for item in as_pair(value, "x and y"))
    return x, y


Stokes = Annotated[
    str,
    Written(
        "str",
        "STOKES",
        "'I', 'pseudoI', several of I, Q, U, V in this order, or 'RR', 'LL', 'RRLL', 'XX', 'YY', 'XXYY'",
        parse_stokes,
    ),
]
_AlongAxis = tuple[Literal["frequency", "velocity"], float]
Start = Annotated[
    Annotated[int, Field(ge=0)] | _AlongAxis | None,
    Written(
        "int | QuantityLike | None",
        "START",
        "the number of a channel, from 0, or a frequency or velocity with its unit, such as '5km/s'",
        or_default(parse_along_axis),
    ),
]
Width = Annotated[
    Annotated[int, _NOT_ZERO] | _AlongAxis,
    Written(
        "int | QuantityLike",
        "WIDTH",
        "a number of channels, not 0, or a frequency or velocity with its unit, such as '0.2km/s'",
        or_default(parse_along_axis, 1),
    ),
]
Phasecenter = Annotated[
    quantities.BaseDirection | Literal["", "TRACKFIELD"] | int,
    Written(
        "DirectionLike | int",
        "DIRECTION",
        "a direction such as 'J2000 12h30m00s +30d00m00s' or 'ICRS 187.5deg 30deg', or the number of a field",
        parse_phasecenter,
    ),
]
Restfreq = Annotated[
    float | None, Written("QuantityLike | None", "FREQUENCY", "a frequency (Hz) such as '230.538GHz'", parse_restfreq)
]
Imsize = Annotated[
    tuple[int, int],
    Written(
        "int | Sequence[int]",
        "N[,N]",
        f"an even number from {SMALLEST_IMAGE} to {LARGEST_IMAGE}, or two as in '512,256'",
        parse_imsize,
    ),
]
Cell = Annotated[
    tuple[float, float],
    Written(_QUANTITIES, "ANGLE[,ANGLE]", "an angle (arcsec) such as '0.2arcsec', or two", parse_cell),
]


# Weighting and deconvolution


def parse_position_angle(value: Any) -> float:
    """Turn a position angle into degrees; a bare number is in degrees."""
    number = quantities.plain_number(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return quantities.parse_quantity(number * 3600.0, quantities.POSITION_ANGLE) / 3600.0
    return quantities.parse_quantity(value, quantities.POSITION_ANGLE) / 3600.0


def parse_uvtaper(value: Any) -> tuple[float, float, float] | tuple[()]:
    """Turn a taper into half widths in wavelengths along and across its position angle, and that angle in degrees."""
    values = as_list(value)
    if not values:
        return ()
    if len(values) > 3:
        raise refused()
    along = quantities.parse_taper_width(values[0])
    across = quantities.parse_taper_width(values[1]) if len(values) > 1 else along
    return along, across, parse_position_angle(values[2]) if len(values) > 2 else 0.0


def parse_scales(value: Any) -> tuple[float, ...]:
    """Turn scales into their sizes in pixels, ascending."""
    sizes = [parse_number(item) for item in as_list(value)]
    if not all(isinstance(size, int | float) and not isinstance(size, bool) and 0 <= size < math.inf for size in sizes):
        raise refused()
    return tuple(sorted({float(size) for size in sizes}))


def parse_threshold(value: Any) -> float:
    """Read a threshold such as "3mJy"; return it in Jy/beam."""
    threshold = quantities.parse_quantity(value, quantities.FLUX_DENSITY)
    if threshold < 0:
        raise ValueError("a threshold cannot be negative; expected e.g. '3mJy', or 0 for none")
    return threshold


def parse_noise(value: Any) -> float:
    """Read a noise such as "3mJy"; return it in Jy."""
    noise = quantities.parse_quantity(value, quantities.FLUX_DENSITY)
    if noise < 0:
        raise ValueError("noise cannot be negative; expected e.g. '3mJy'")
    return noise


def parse_restoringbeam(value: Any) -> tuple[float, float, float] | Literal["", "common"]:
    """Turn a restoring beam into full widths in arcsec and a position angle in degrees, or one of two words."""
    values = as_list(value)
    if not values:
        return ""
    if len(values) == 1 and isinstance(values[0], str) and values[0].lower() == "common":
        return "common"
    if len(values) not in (1, 3):
        raise refused()
    bmaj = parse_positive(values[0], quantities.ANGLE)
    bmin = parse_positive(values[1], quantities.ANGLE) if len(values) == 3 else bmaj
    if bmaj < bmin:
        raise ValueError("the major axis is smaller than the minor one; expected bmaj, bmin, bpa")
    return bmaj, bmin, parse_position_angle(values[2]) if len(values) == 3 else 0.0


Uvtaper = Annotated[
    tuple[float, float, float] | tuple[()],
    Written(
        _QUANTITIES,
        "BMAJ[,BMIN,BPA]",
        "bmaj, or bmaj, bmin, bpa as in ['5klambda', '3klambda', '45deg']",
        parse_uvtaper,
    ),
]
Scales = Annotated[
    tuple[float, ...],
    Written("float | Sequence[float]", "N[,N]", "sizes in pixels from 0, such as [0, 5, 15]", parse_scales),
]
Threshold = Annotated[
    float, Written("QuantityLike", "FLUX", "a flux density (Jy/beam) such as '3mJy'", parse_threshold)
]
Noise = Annotated[float, Written("QuantityLike", "FLUX", "a flux density (Jy) such as '3mJy'", parse_noise)]
Restoringbeam = Annotated[
    tuple[float, float, float] | Literal["", "common"],
    Written(
        _QUANTITIES,
        "common|BMAJ[,BMIN,BPA]",
        "'', 'common', '1arcsec' or ['1arcsec', '0.8arcsec', '30deg']",
        parse_restoringbeam,
    ),
]


# Resources and output


def parse_chunksize(value: Any) -> int | Literal["auto"]:
    """Check the number of channels in a chunk."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    size = parse_number(value)
    if not isinstance(size, int) or size < -1 or size == 0:
        raise refused()
    return size


def parse_diameter(value: Any) -> float:
    """Turn the diameter of a dish into metres."""
    return parse_positive(value, quantities.LENGTH)


def parse_memory(value: Any) -> int:
    """Turn a memory size into whole bytes."""
    return max(1, int(parse_positive(value, quantities.MEMORY)))


def parse_products(value: Any) -> tuple[str, ...]:
    """Put the names of products into the usual order."""
    named = [item.lower() if isinstance(item, str) else item for item in as_list(value)]
    for name in named:
        if name not in PRODUCTS:
            raise ValueError(f"{name!r} is not a product; expected {in_words(PRODUCTS)}{did_you_mean(name, PRODUCTS)}")
    if not named:
        raise refused()
    return tuple(name for name in PRODUCTS if name in named)


DishDiameter = Annotated[
    float | None, Written("QuantityLike | None", "LENGTH", "a length (m) such as '12m'", or_default(parse_diameter))
]
Chunksize = Annotated[
    int | Literal["auto"], Written("int | str", "auto|N", "'auto', a number of channels from 1, or -1", parse_chunksize)
]
Workers = Annotated[
    int | None, Field(ge=1), Written("int | None", "N", "a whole number from 1", or_default(parse_number))
]
Memory = Annotated[
    int | None, Written("QuantityLike | None", "SIZE", "a memory size (bytes) such as '8GB'", or_default(parse_memory))
]
Products = Annotated[
    tuple[str, ...],
    Written("str | Sequence[str]", "NAME[,NAME]", "one or several names of products", parse_products),
]
