"""Packages of this environment that programs may import: which parts of them a sandbox has to show."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

from ...errors import ConfigurationError


def named_packages(given: str | Sequence[str]) -> tuple[str, ...]:
    """The packages of a list, or of a text with commas, each once.

    Raises:
        [`ConfigurationError`]: one is no plain name, part of Python, or not installed here.
    """
    texts = [given] if isinstance(given, str) else given
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if not name.isidentifier():
            raise ConfigurationError(
                f"--allow-packages {name!r} is not the plain name of a package; give names as programs import them,"
                " such as numpy or numpy,yaml"
            )
        if name in sys.stdlib_module_names:
            raise ConfigurationError(
                f"--allow-packages {name}: it is part of Python, which programs have; leave it out"
            )
        if not parts_of(name):
            raise ConfigurationError(
                f"--allow-packages {name}: no package of that name is installed here; {_advice(name)}"
            )
    return tuple(names)


def parts_of(package: str) -> list[Path]:
    """The folder or file of a package, and beside it the folder of libraries that its wheel brought; none of what it
    needs besides. Empty where it is not installed as one folder or file."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return []
    place = Path(spec.origin)
    if spec.submodule_search_locations is not None:
        place = place.parent
    if not place.is_absolute() or not place.exists():
        return []
    wheels = {f"{name.replace('-', '_').lower()}.libs" for name in (package, *_distributions().get(package, ()))}
    return [place, *(path for path in sorted(place.parent.glob("*.libs")) if path.name.lower() in wheels)]


def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _advice(name: str) -> str:
    """What to do about a name that is not installed, which may be that under which a package is distributed."""

    def plain(text: str) -> str:
        return re.sub(r"[-_.]+", "-", text).lower()

    found = [top for top, names in _distributions().items() if plain(name) in map(plain, names) and parts_of(top)]
    if found:
        return f"{name} is imported as {' or '.join(sorted(found))}"
    return "install it, or leave it out"
