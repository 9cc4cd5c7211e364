"""Packages of this environment that programs may import: which parts of them a sandbox must expose."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

from ..utils.errors import ConfigurationError


def parse_packages(packages: str | Sequence[str]) -> tuple[str, ...]:
    """The packages in a list, or in a comma-separated text, each once.

    Raises:
        [`ConfigurationError`]: one is not a plain name, is part of Python, or is not installed here.
    """
    texts = [packages] if isinstance(packages, str) else packages
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if not name.isidentifier() or name == "__main__":  # the latter is the running program, not a package
            raise ConfigurationError(
                f"`allow_packages` {name!r} is not the plain name of a package; use names as programs import them,"
                " such as numpy or numpy,yaml"
            )
        if name in sys.stdlib_module_names:
            raise ConfigurationError(
                f"`allow_packages` {name}: it is part of Python and always available; leave it out"
            )
        if not parts_of(name):
            raise ConfigurationError(f"`allow_packages` {name}: {_why_not(name)}")
    return tuple(names)


@lru_cache
def parts_of(package: str) -> tuple[Path, ...]:
    """The folder or file of a package, and the folder of libraries beside it that came with its wheel, but none of its
    dependencies. Empty where it is not installed as one folder or file."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return ()
    place = Path(spec.origin)
    if spec.submodule_search_locations is not None:
        place = place.parent
    if not place.is_absolute() or not place.exists():
        return ()
    names = (package, *packages_distributions().get(package, ()))
    libraries = {f"{name.replace('-', '_').lower()}.libs" for name in names}
    return (place, *(path for path in sorted(place.parent.glob("*.libs")) if path.name.lower() in libraries))


def _why_not(name: str) -> str:
    """Why a name cannot be allowed, and what to do; it may be the name under which a package is distributed."""

    def plain(text: str) -> str:
        return re.sub(r"[-_.]+", "-", text).lower()

    if importlib.util.find_spec(name) is not None:
        return "it is a name that several packages share, or one without files of its own; leave it out"
    tops = (top for top, names in packages_distributions().items() if plain(name) in map(plain, names))
    imports = sorted(top for top in tops if not top.startswith("_"))
    what = f"{name} is imported as {' or '.join(imports)}" if imports else "install it, or leave it out"
    return f"no package of that name is installed here; {what}"
