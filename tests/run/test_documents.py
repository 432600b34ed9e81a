"""What the documents name exists: files, modules, and functions in them; and the version is the same everywhere."""

from __future__ import annotations

import ast
import pkgutil
import re
from pathlib import Path

import pytest

import gpucube

REPOSITORY = Path(__file__).resolve().parents[2]

DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "bench/*.md") for path in REPOSITORY.glob(pattern))

FOLDERS = ("bench", "docs", "examples", "gpucube", "kernels", "tests")
ROOMS = ("data", "devices", "execution", "imaging", "output", "report", "schema", "simulate", "sky")

CURRENT = [path for path in DOCUMENTS if path.name not in ("decisions.md", "CHANGELOG.md")]
"""Documents that tell of what there is; the others also tell of what there was."""


def names_of(module: Path) -> set[str]:
    """Names at the top level of a module, and the members of its classes."""
    found = set()
    for node in ast.parse(module.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`", document.read_text())
    missing = []
    for path in paths:
        first = path.split("/")[0]
        if "NAME" in path:  # stands for any
            continue
        if first in FOLDERS and not (REPOSITORY / path).exists():
            missing.append(path)
        if first in ROOMS and not (REPOSITORY / "gpucube" / path).exists():
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: path.name)
def test_names_in_python_that_are_given_exist(document: Path) -> None:
    """Such as `gpucube.data.store.VisibilityStore`; a call's parentheses may follow."""
    missing = []
    # gpucube.kernels is a package in the wheel alone
    for name in set(re.findall(r"`(gpucube(?!\.kernels)(?:\.\w+)+)[`(]", document.read_text())):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing


def test_every_public_name_is_there() -> None:
    assert {name for name in gpucube.__all__ if not hasattr(gpucube, name)} == set()


def test_functions_that_the_architecture_names_exist() -> None:
    """Written there as `room/module.py` `name`, one or several names after their file."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:[\w]+/)*[\w]+\.py)`((?:,?\s+`\w+`)+)", text)
    assert len(named) > 20
    missing = []
    for path, names in named:
        module = REPOSITORY / "gpucube" / path
        known = names_of(module)
        missing += [f"{path} {name}" for name in re.findall(r"\w+", names) if name not in known]
    assert not missing


def test_the_version_has_one_value() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)$", citation, re.M)[1] == gpucube.__version__
