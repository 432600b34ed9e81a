"""Write what documents the parameters: the reference page, and the signature and docstring of `gpucube.image_cube`.

All of it comes from the schema, and tests hold docs/parameters.md and gpucube/api.py to it. After a change of the schema:

    python docs/reference.py > docs/parameters.md
    python docs/reference.py signature        # the parameters of image_cube, to paste into gpucube/api.py
    python docs/reference.py docstring        # the section "Parameters" of its docstring
"""

from __future__ import annotations

import sys
import textwrap
from itertools import groupby

from gpucube.schema.parameters import GROUPS, Parameters
from gpucube.schema.tclean import ABSENT_PARAMETERS, ABSENT_VALUES, SAME_VALUES
from gpucube.schema.validation import About, about

_HEAD = """\
# Parameters

This page is made from the schema by `python docs/reference.py > docs/parameters.md`; do not edit it.

The same names serve `gpucube.image_cube(...)`, the command line (`--name value`, where a list has commas, as in
`--imsize 512,256`) and the YAML file given with `--config`. Text such as '3mJy' needs a unit; a number in Python or
YAML is in the unit in brackets. Names of choices may be written in upper or lower case. The last column gives tclean's
default where it differs, and a dash for parameters that tclean does not have.
"""

_TCLEAN_HEAD = """\
## tclean's other parameters and values

`gpucube.tclean`, `gpucube.image_cube`, the command line and `--config` accept the values in the second column, because
they change nothing here. Everything else is refused, with the advice in the third column.

| tclean | accepted | instead of other values |
|---|---|---|
"""


def parameters() -> dict[str, About]:
    """List the parameters in the order of the schema."""
    return {name: about(field) for name, field in Parameters.model_fields.items()}


def signature() -> str:
    """Write the parameters of `gpucube.image_cube`, one line each. All but the first two are keyword-only."""
    lines = []
    for name, it in parameters().items():
        line = f"{name}: {it.annotation} = {it.default}," if it.default else f"{name}: {it.annotation},"
        lines.append(line.replace("'", '"'))
        if name == "imagename":
            lines.append("*,")
    return "\n".join(lines) + "\n"


def docstring(width: int = 120) -> str:
    """Write the section "Parameters" of the docstring of `gpucube.image_cube`, without the indentation of the body."""
    lines = []
    for name, it in parameters().items():
        lines.append(f"{name} : {it.accepts}" + (f"; default {it.default}" if it.default else ""))
        lines += textwrap.wrap(it.description, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def reference_page() -> str:
    """Write the reference page of the documentation, in Markdown."""
    rows: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, it in parameters().items():
        tclean = {None: "—", "same": ""}.get(it.tclean, f"`{it.tclean!r}`")
        default = f"`{it.default}`" if it.default else "required"
        row = " | ".join((f"`{name}`", default, it.accepts, it.description, tclean))
        rows[it.group].append(f"| {row} |")
    page = _HEAD
    for group, of_group in rows.items():
        page += f"\n## {group}\n\n| name | default | accepts | meaning | tclean |\n|---|---|---|---|---|\n"
        page += "\n".join(of_group) + "\n"
    absent = [
        (", ".join(f"`{name}`" for name, _ in same), default, advice)
        for (default, advice), same in groupby(
            ABSENT_PARAMETERS.items(),
            key=lambda item: (f"`{item[1].default!r}`" if item[1].advice else "any value", item[1].advice),
        )
    ]
    absent += [
        (f"`{name}={value!r}`", f"as `{same!r}`", note)
        for name, values in SAME_VALUES.items()
        for value, (same, note) in values.items()
    ]
    absent += [(f"`{name}`: {', '.join(values)}", "", advice) for name, (values, advice) in ABSENT_VALUES.items()]
    return page + "\n" + _TCLEAN_HEAD + "".join(f"| {' | '.join(row)} |\n" for row in absent)


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "page"
    print({"page": reference_page, "signature": signature, "docstring": docstring}[wanted](), end="")
