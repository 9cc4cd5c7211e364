"""Recipes: settings files that come with the package, each known by its name. Lightweight."""

from __future__ import annotations

import os
from pathlib import Path

from ..utils.errors import ConfigurationError
from ..utils.places import user_path


FOLDER = Path(__file__).parent.parent / "recipes"


def recipe_files() -> dict[str, Path]:
    """The file of every recipe by name, sorted."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_recipe(name: str) -> str:
    """The text of a recipe.

    Raises:
        [`ConfigurationError`]: there is no recipe of this name.
    """
    if name not in recipe_files():
        raise ConfigurationError(f"there is no recipe {name!r}; recipes: {', '.join(recipe_files())}")
    return recipe_files()[name].read_text(encoding="utf-8")


def first_comment(text: str) -> str:
    """The first comment line in a settings file, which says what it is for."""
    return next((line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")), "")


def settings_path(path: str | os.PathLike[str]) -> Path:
    """Where a settings file is: a file with this path takes precedence over a recipe of this name.

    Args:
        path (`str` or `os.PathLike`): of a file, which need not exist, or the name of a recipe.

    Raises:
        [`ConfigurationError`]: it is empty, or begins with the `~` of a user that is not known here.
    """
    file = user_path(path)
    return file if file.is_file() else recipe_files().get(os.fspath(path), file)
