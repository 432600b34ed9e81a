"""Ask CASA what the expressions of `tests/data/selection_answers.json` select; run with the Python of the peers' environment.

Usage: python bench/peers/selection_answers.py selection.ms expressions.json answers.json

`python tests/data/selection_ms.py FOLDER`, in gpucube's own environment, writes both MeasurementSets and the expressions.
"""

import hashlib
import json
import sys

import numpy as np
from casatools import ms as MeasurementSet

KEYWORDS = {
    "field": "field",
    "spw": "spw",
    "scan": "scan",
    "observation": "observation",
    "intent": "scanintent",
    "antenna": "baseline",
    "uvrange": "uvdist",
    "timerange": "time",
}


def main(path: str, expressions: str, answers: str) -> None:
    with open(expressions) as file:
        listed = json.load(file)
    found = {name: {text: answer(path, name, text) for text in texts} for name, texts in listed.items()}
    with open(answers, "w") as file:
        file.write(one_answer_a_line(found))


def one_answer_a_line(found: dict[str, dict[str, object]]) -> str:
    """Write JSON with a line for each expression."""
    parts = []
    for name, of_text in found.items():
        lines = [f"{json.dumps(text)}: {json.dumps(selected)}" for text, selected in of_text.items()]
        parts.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def answer(path: str, parameter: str, text: str) -> dict[str, object]:
    """Rows as a digest, and the fields or channels, that CASA selects; or its error."""
    rows: list[np.ndarray] = []
    selected: dict[str, object] = {}
    tool = MeasurementSet()
    try:
        # times count from the first row of all windows: the second MeasurementSet has one window
        for description in range(1 if parameter == "timerange" else 5):
            tool.open(path.replace(".ms", "-one-window.ms") if parameter == "timerange" else path)
            tool.selectinit(datadescid=description)
            if parameter == "spw" or tool.msselect({KEYWORDS[parameter]: text}):
                rows.append(key(tool) if parameter != "spw" else np.empty(0, int))
            tool.close()
        tool.open(path)
        tool.msselect({KEYWORDS[parameter]: text})
        indices = tool.msselectedindices()
        if parameter == "field":
            selected["fields"] = sorted(int(number) for number in set(indices["field"]))
        if parameter == "spw":
            selected["channels"] = np.asarray(indices["channel"]).tolist()
        else:
            numbers = np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
            selected |= {"rows": len(numbers), "sha": digest(numbers)}
    except RuntimeError as error:
        selected = {"error": str(error).splitlines()[0][:120]}
    finally:
        tool.close()
    return selected


def key(tool: MeasurementSet) -> np.ndarray:
    """A number for each selected row that no other row has: integration and pair of antennas."""
    if not tool.nrow(True):
        return np.empty(0, int)
    columns = tool.getdata(["time", "antenna1", "antenna2"])
    return (columns["time"] * 10000 + columns["antenna1"] * 100 + columns["antenna2"]).astype(np.int64)


def digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main(*sys.argv[1:4])
