"""A pydantic model made of what a user wrote, with one line for a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gpucube.errors import GpucubeError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Make a pydantic model of what a user wrote, with `GpucubeError` of one line for the first mistake.

    Parameters
    ----------
    model : type
        A pydantic model whose fields have ``accepts`` in their ``json_schema_extra``, or none.
    values : mapping
        Field name -> what the user wrote.

    Returns
    -------
    instance of model
    """
    for name in values:
        if name not in model.model_fields:
            raise GpucubeError(f"unknown parameter {name!r}{suggestion(str(name), model.model_fields)}")
    try:
        return model(**values)
    except ValidationError as error:
        raise GpucubeError(_one_line(model, values, error)) from None


def suggestion(name: str, right: Iterable[str]) -> str:
    """``": did you mean 'imsize'?"``, or nothing if no right name is near."""
    nearest = difflib.get_close_matches(name.lower(), list(right), n=1, cutoff=0.6)
    return f": did you mean {nearest[0]!r}?" if nearest else ""


def _one_line(model: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    own_message = str(first["ctx"]["error"]) if first["type"] == "value_error" else ""
    if not first["loc"]:
        return own_message or first["msg"]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{name} is missing: {model.model_fields[name].description}"
    extra = model.model_fields[name].json_schema_extra
    accepts = extra.get("accepts") if isinstance(extra, dict) else None
    message = own_message or first["msg"][0].lower() + first["msg"][1:]
    if accepts and first["type"] not in ("value_error", "literal_error"):
        message += f" ({accepts})"
    value = values.get(name)
    given = str(value) if hasattr(value, "to_value") else repr(value)
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{name}={given}: {message}".replace("\n", " ")
