"""Settings files: YAML or JSON with the settings of all verbs, or recipes by name. Lightweight."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import Field

from ..utils.errors import ConfigurationError
from .efficiency import BenchSettings
from .evaluation import EvaluationSettings
from .export import ExportSettings
from .hub import CardSettings, PushSettings
from .pruning import PrunerSettings
from .recipes import recipe_files, settings_path


CONFIG_NAME = "flab_config.json"  # beside a pruned model


class Settings(PrunerSettings):
    """Everything that a settings file may hold: the pruning, its recovery, and a section for each of other verbs."""

    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    bench: BenchSettings = Field(default_factory=BenchSettings)
    card: CardSettings = Field(default_factory=CardSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)
    push: PushSettings = Field(default_factory=PushSettings)

    @property
    def pruning(self) -> dict[str, Any]:
        """The fields of a [`~settings.configuration.FlabPrunerConfig`]."""
        return {name: getattr(self, name) for name in PrunerSettings.model_fields}


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a YAML or JSON settings file; nothing is validated yet.

    Args:
        path (`str` or `os.PathLike`): the file, or the name of a recipe.

    Returns:
        `dict[str, Any]`: its fields, unchanged.

    Raises:
        [`ConfigurationError`]: the file cannot be read, is not UTF-8, not YAML or JSON, or is not a mapping.
    """
    name, file = os.fspath(path), settings_path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        # YAML reads nearly all JSON, but refuses some characters that JSON allows
        values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError as error:
        recipes = ", ".join(recipe_files())
        raise ConfigurationError(
            f"there is no configuration file {name!r}, and no recipe; recipes: {recipes}"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigurationError(f"configuration file {name!r} cannot be read: {error}") from error
    if not isinstance(values, Mapping | None):
        raise ConfigurationError(f"configuration file {name!r} holds a {type(values).__name__}; it needs a mapping")
    return {str(field): value for field, value in (values or {}).items()}
