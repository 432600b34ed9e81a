"""A pydantic model made of what a user wrote, with one line for a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gpucube.errors import GpucubeError
from gpucube.schema.about import about
from gpucube.words import did_you_mean

Model = TypeVar("Model", bound=BaseModel)

LONGEST_VALUE = 80
"""Characters of a wrong value that a message quotes."""


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Make a model of what a user wrote for each field.

    GpucubeError has one line for the first mistake: an unknown name, or a wrong value and what the field accepts.
    """
    for name in values:
        if name not in model.model_fields:
            raise GpucubeError(f"unknown parameter {name!r}{did_you_mean(name, model.model_fields)}")
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
    wrong = own_words or (f"expected {accepts}" if accepts else _plain_words(first["msg"]))
    return f"`{name}={_quoted(values.get(name))}`: {wrong}".replace("\n", " ")


def _plain_words(message: str) -> str:
    """Pydantic's message in the style of ours: "must be greater than 0"."""
    message = message.removeprefix("Value error, ").replace("Input should ", "must ")
    return message[:1].lower() + message[1:]


def _quoted(value: Any) -> str:
    text = (str(value) if hasattr(value, "to_value") else repr(value)).replace("`", "'")
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
