"""The reference page of the parameters."""

from __future__ import annotations

from typing import Any

from gpucube.schema.parameters import SAME, Parameters


def reference_page() -> str:
    """The reference page of the documentation, in Markdown."""
    lines = [
        "# Parameters",
        "",
        "Made from the schema by `python -m gpucube.schema.reference > docs/parameters.md`; do not edit.",
        "",
        "The same names serve `gpucube.image_cube(...)`, the command line (`--name value`; lists with commas, as in",
        "`--imsize 512,256`) and the YAML file given with `--config`. A bare number is in the unit in brackets. The",
        "last column gives tclean's default where it differs, and a dash for parameters that tclean does not have.",
    ]
    groups: dict[str, list[str]] = {}
    for name, field in Parameters.model_fields.items():
        extra = field.json_schema_extra
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        tclean = {None: "—", SAME: ""}.get(extra["tclean"], f"`'{extra['tclean']}'`")
        row = f"| `{name}` | {default} | {extra['accepts']} | {field.description} | {tclean} |"
        groups.setdefault(extra["group"], []).append(row)
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", "| name | default | accepts | meaning | tclean |", "|---|---|---|---|---|"]
        lines += rows
    return "\n".join(lines) + "\n"


def _plain(default: Any) -> str:
    return repr(list(default)) if isinstance(default, tuple) else repr(default)


if __name__ == "__main__":
    print(reference_page(), end="")
