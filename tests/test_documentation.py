"""What is public is documented, and what is documented exists."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

import optimum_flab
from optimum_flab.utils.version import ADDRESS


ROOT = Path(optimum_flab.__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference.md"
FRONT_DOOR = "optimum_flab"  # whose names the reference explains; those of other rooms are only listed
# what optimum-cli reads from its own namespace, what runs when it is imported
NOT_MODULES = re.compile(r"\.(_register_flab|__main__)(\.|$)")
NAMES = [
    module.name
    for module in pkgutil.walk_packages(optimum_flab.__path__, "optimum_flab.")
    if not NOT_MODULES.search(module.name)
]
UNWRITTEN = re.compile(r"^[A-Z]{4,}$|\bTODO\b", re.M)
MODULES = [optimum_flab, *map(importlib.import_module, NAMES)]
PUBLIC = [(module, name) for module in MODULES for name in getattr(module, "__all__", ())]


def first_sentence(value: object) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;:]) (?=[A-Z])", text)[0]


def line_of(module: object, name: str) -> str:
    """What the reference says of a public name: the first sentence of its docstring."""
    value = getattr(module, name)
    return f"- `{name}`: {first_sentence(value)}" if callable(value) else f"- `{name}`: "


@pytest.mark.skipif(not REFERENCE.exists(), reason="the package is installed without its sources")
def test_the_reference_lists_every_public_name_in_its_room_and_no_other():
    sections = dict(re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", REFERENCE.read_text("utf-8"), re.M | re.S))
    wanted: dict[str, list[str]] = {}
    for module, name in PUBLIC:
        wanted.setdefault(module.__name__, []).append(name)
    assert list(sections) == list(wanted)
    for room, names in wanted.items():
        if room != FRONT_DOOR:
            assert sorted(re.findall(r"`(\w+)`", sections[room])) == sorted(names), room
    lines = [line_of(optimum_flab, name) for name in wanted[FRONT_DOOR]]
    found = re.findall(r"^- .*$", sections[FRONT_DOOR], re.M)
    assert len(found) == len(lines), found
    for line, there in zip(sorted(lines), sorted(found), strict=True):
        assert there == line or (line.endswith(": ") and len(there) > len(line) and there.startswith(line)), line


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_public_has_a_docstring_of_its_own(module, name):
    value = getattr(module, name)
    if isinstance(value, type):
        assert vars(value).get("__doc__"), f"{name} of {module.__name__}"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has the one that `dataclass` makes"
    elif callable(value):
        assert inspect.getdoc(value), f"{name} of {module.__name__}"


def functions() -> Iterator[tuple[str, FunctionType | type, str]]:
    """Functions, methods and classes of the package with their docstrings."""
    for module in MODULES:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, FunctionType):
                yield f"{module.__name__}.{name}", value, value.__doc__ or ""
            elif isinstance(value, type):
                yield f"{module.__name__}.{name}", value, vars(value).get("__doc__") or ""
                for inner, method in vars(value).items():
                    method = getattr(method, "__func__", method)
                    if isinstance(method, FunctionType):
                        yield f"{module.__name__}.{name}.{inner}", method, method.__doc__ or ""


def documented(docstring: str) -> list[str]:
    """The names in the section `Args` of a docstring; several of one kind may share a line."""
    section = re.search(r"^( *)Args:\n((?:\1 +.*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M)
    if section is None:
        return []
    lines = re.findall(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?[(:]", section[2], re.M)
    return [name.strip().lstrip("*") for line in lines for name in line.split(",")]


def names_of(value: FunctionType | type) -> set[str]:
    parameters = set(inspect.signature(value).parameters)
    if isinstance(value, type):
        parameters |= {name for kind in value.__mro__ for name in getattr(kind, "__annotations__", {})}
    return parameters


def test_every_argument_that_is_documented_exists():
    faults = []
    for name, value, docstring in functions():
        if found := set(documented(docstring)) - (names_of(value) if "Args:" in docstring else set()):
            faults.append(f"{name}: {', '.join(sorted(found))}")
    assert not faults


def test_the_search_for_documented_arguments_finds_them():
    def function(one, two, *rest, **others):
        """Does something.

        Args:
            one, two (`int`): numbers, of which
                more (is said): here.
            rest (`int`): others.
            gone (`str`): not there.

        Returns:
            `int`: nothing.
        """

    assert documented(function.__doc__) == ["one", "two", "rest", "gone"]
    assert set(documented(function.__doc__)) - names_of(function) == {"gone"}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the package is installed without its sources")
@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md")]), ids=lambda path: path.name)
def test_nothing_is_left_to_be_written(path):
    assert UNWRITTEN.findall(path.read_text(encoding="utf-8")) == []


def test_the_search_for_what_is_left_to_be_written_finds_it():
    assert UNWRITTEN.findall("# One\n\nMEASURED\n\nA `TODO` and TODO: more\nGGUF files\n") == [
        "MEASURED",
        "TODO",
        "TODO",
    ]


LINK = re.compile(r"\[`~(?:optimum_flab\.)?([\w.]+)`\]")


def exists(name: str) -> bool:
    """Whether a dotted name, from the top of the package, is one of its modules or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = f"optimum_flab.{'.'.join(parts[:length])}"
        if module in NAMES:
            value = importlib.import_module(module)
            for part in parts[length:]:
                value = getattr(value, part, None)
            return value is not None
    return hasattr(optimum_flab, parts[0])


@pytest.mark.parametrize("path", sorted((ROOT / "optimum_flab").rglob("*.py")), ids=lambda path: path.name)
def test_what_a_docstring_links_to_exists(path):
    assert [name for name in LINK.findall(path.read_text(encoding="utf-8")) if not exists(name)] == []


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the package is installed without its sources")
def test_the_project_has_one_address_and_a_release_has_it():
    said = {
        "pyproject.toml": re.findall(r'^Source = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE),
        "CITATION.cff": re.findall(
            r"^repository-code: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE
        ),
        "mkdocs.yml": re.findall(r"^repo_url: (.*)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE),
    }
    assert said == dict.fromkeys(said, [ADDRESS] if ADDRESS else [])
    assert ADDRESS or ".dev" in optimum_flab.__version__, "a release needs the address of its repository"
