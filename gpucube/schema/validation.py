"""How values are written, and how a pydantic model is made from them, with one line for a mistake.

In: the fields of a model. Out: an `About` for each, made from its type, which the signature, the command line, the
reference page and messages use. A type whose values users may write in several ways carries a `Written`; a `Literal`
with a `Choice`, and plain numbers with their limits, need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from gpucube.errors import GpucubeError
from gpucube.text import did_you_mean, in_words

Model = TypeVar("Model", bound=BaseModel)

LONGEST_VALUE = 80
"""Characters of a wrong value that a message quotes."""


@dataclass(frozen=True)
class Written:
    """Metadata of a type: how its values are written, and what turns them into the base form."""

    annotation: str  # Python type of what a user may write
    metavar: str  # placeholder of the command-line option
    accepts: str = ""  # continues "expected ..."; empty for a number, whose limits are the words
    parse: Callable[[Any], Any] | None = None  # runs before pydantic's own check

    def __get_pydantic_core_schema__(self, written: Any, handler: Any) -> core_schema.CoreSchema:
        checked: core_schema.CoreSchema = handler(written)
        return core_schema.no_info_before_validator_function(self.parse, checked) if self.parse else checked


class Choice:
    """Metadata of a `Literal` whose values may be written in upper or lower case.

    A message about a wrong value lists all right ones and suggests the nearest. `other_names` are names from other
    programs and the values that they mean. `empty` is what None and empty text stand for, if they stand for a value.
    """

    def __init__(self, empty: str | None = None, **other_names: str) -> None:
        self.empty, self.other_names = empty, other_names

    def __get_pydantic_core_schema__(self, literal: Any, handler: Any) -> core_schema.CoreSchema:
        right: dict[str, str] = {name.lower(): name for name in get_args(literal)}

        def choose(value: Any) -> str:
            if isinstance(value, str) and value.strip().lower() in right:
                return right[value.strip().lower()]
            if self.empty is not None and (value is None or (isinstance(value, str) and not value.strip())):
                return self.empty
            names = tuple(right.values())
            raise ValueError(f"expected {in_words(names)}{did_you_mean(value, names, self.other_names)}")

        return core_schema.no_info_before_validator_function(choose, handler(literal))


@dataclass(frozen=True)
class About(Written):
    """How one parameter is written, and in which group help and the reference page list it."""

    description: str = ""  # whole sentences
    default: str = ""  # as Python writes it; empty for a required parameter
    group: str = ""  # heading; empty in a model without groups
    usual: bool = False  # most users set it
    tclean: str | bool | None = None  # tclean's default if it differs, "same", or None if tclean has no such parameter


def about(field: FieldInfo) -> About:
    """Describe a field of a model from its type and metadata."""
    extra: Any = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    written = next((item for item in field.metadata if isinstance(item, Written)), None)
    written = written or _from_type(field.annotation)
    accepts = written.accepts or _number_in_words(field)
    description = " ".join((field.description or "").split())
    default = "" if field.is_required() else repr(field.default)
    return About(written.annotation, written.metavar, accepts, description=description, default=default, **extra)


def _from_type(annotation: Any) -> Written:
    if annotation is bool:
        return Written("bool", "", "True or False")
    if get_origin(annotation) is Literal:
        names = get_args(annotation)
        return Written(f"Literal[{', '.join(map(repr, names))}]", "|".join(map(str, names)), in_words(names))
    return Written(getattr(annotation, "__name__", str(annotation)), {int: "N", float: "X"}.get(annotation, "VALUE"))


def _number_in_words(field: FieldInfo) -> str:
    """Say ``"a whole number from 0"``, from a number's type and limits. Other types give an empty text."""
    if field.annotation not in (int, float):
        return ""
    limits = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le") if hasattr(item, name)
    }
    words = "a whole number" if field.annotation is int else "a number"
    if "ge" in limits:
        return f"{words} from {limits['ge']:g}" + (f" to {limits['le']:g}" if "le" in limits else "")
    if "gt" in limits:
        return f"{words} above {limits['gt']:g}" + (f", at most {limits['le']:g}" if "le" in limits else "")
    return words


def check_names(model: type[BaseModel], names: Iterable[str], other_names: Mapping[str, str] | None = None) -> None:
    """GpucubeError for the first name that is not a parameter, with the one of `other_names` or the nearest that is."""
    for name in names:
        if name not in model.model_fields:
            raise GpucubeError(f"unknown parameter {name!r}{did_you_mean(name, model.model_fields, other_names)}")


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Make a model from the values that a user wrote.

    GpucubeError has one line for the first mistake: an unknown name, or a wrong value and what the field accepts.
    """
    check_names(model, values)
    try:
        return model(**values)
    except ValidationError as error:
        raise GpucubeError(_one_line(model, values, error)) from None


def _one_line(model: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    own_words = str(first["ctx"]["error"]) if first["type"] == "value_error" else ""
    if not first["loc"]:  # a check of several fields
        return own_words or first["msg"]
    name = str(first["loc"][0])
    field = model.model_fields[name]
    accepts = about(field).accepts
    if first["type"] == "missing":
        return f"`{name}` is missing: expected {accepts or field.description}"
    # otherwise pydantic's message in our style: "must be greater than 0"
    pydantic = first["msg"].replace("Input should ", "must ")
    wrong = own_words or (f"expected {accepts}" if accepts else pydantic[:1].lower() + pydantic[1:])
    value = values.get(name)
    text = (str(value) if hasattr(value, "to_value") else repr(value)).replace("`", "'")
    if len(text) > LONGEST_VALUE:
        text = text[: LONGEST_VALUE - 3] + "..."
    return f"`{name}={text}`: {wrong}".replace("\n", " ")
