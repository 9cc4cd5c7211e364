"""`FlabPrunerConfig`: what a user requests of pruning, as an Optimum configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from optimum import configuration_utils

from ..utils.version import __version__
from .files import CONFIG_NAME, Settings, read_settings_file
from .pruning import PrunerSettings, merge_settings
from .section import Section


if TYPE_CHECKING:

    class BaseConfig(PrunerSettings, configuration_utils.BaseConfig):
        """With the fields that the constructor takes over from the settings, for type checkers."""

else:
    BaseConfig = configuration_utils.BaseConfig


class FlabPrunerConfig(BaseConfig):
    """What to remove from a model and which text decides it; saved as `flab_config.json`.

    Args:
        target_ratio (`float`, *optional*): share of all parameters to remove, between 0 and 1. Without it the
            vocabulary is pruned to its natural size, and other components to the sizes given here, if any.
        target_size (`str`, *optional*): size that the file must not exceed, in place of a share: `"300MB"`, `"1.2GB"`.
        target_type (`str`, *optional*): type of the GGUF file that `target_size` is about; the weights as safetensors
            by default.
        vocab_size, num_hidden_layers, intermediate_size, num_experts (`int`, *optional*): sizes to reach, under the
            names of the model's configuration. With a target, what is not given is decided by it.
        seed (`int`, defaults to 0): seed of every random choice.
        align (`int`, *optional*): number of devices that share each layer when the model is served: the width and the
            rows of the vocabulary are multiples of 64 for each of them.
        data ([`~settings.pruning.DataSettings`] or `dict`, *optional*): corpus, calibration and held-out text.
        vocabulary ([`~settings.components.VocabularySettings`] or `dict`, *optional*): how the vocabulary is pruned.
        layers ([`~settings.components.LayerSettings`] or `dict`, *optional*): how layers are removed.
        ffn ([`~settings.components.FFNSettings`] or `dict`, *optional*): how the feed-forward networks are narrowed.
        experts ([`~settings.components.ExpertSettings`] or `dict`, *optional*): how whole experts of a mixture are
            removed; they are if their number is given, or `enabled` is true.
        recovery ([`~settings.recovery.RecoveryConfig`] or `dict`, *optional*): what the pruned model is trained on
            afterwards, and how; it is not trained unless data, text or a mix of text is named there.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value, or else a contradiction.

    Example:

    ```python
    >>> from optimum_flab import FlabPrunerConfig

    >>> config = FlabPrunerConfig(vocab_size=32682, num_hidden_layers=24, vocabulary={"min_count": 2})
    >>> config.vocabulary.min_count
    2
    ```
    """

    CONFIG_NAME: ClassVar[str] = CONFIG_NAME
    FULL_CONFIGURATION_FILE: ClassVar[str] = CONFIG_NAME

    __signature__ = signature(PrunerSettings)

    def __init__(self, **fields: Any):
        super().__init__()
        for name, value in PrunerSettings(**fields):
            setattr(self, name, value)

    @property
    def has_target(self) -> bool:
        """Whether a share or a size decides what is not pinned."""
        return self.target_ratio is not None or self.target_size is not None

    def validate(self) -> None:  # type: ignore[override]  # pydantic's is for classes
        """Check the fields again: they may have changed since.

        Raises:
            [`ConfigurationError`]: lists every fault at once.
        """
        PrunerSettings(**self.to_dict())

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> FlabPrunerConfig:
        """Read a configuration from a YAML (or JSON) file, which may hold the sections of other verbs too.

        Args:
            path (`str` or `os.PathLike`): the file, or the name of a recipe.

        Raises:
            [`ConfigurationError`]: the file cannot be read, or its settings are faulty.
        """
        return cls(**Settings(**read_settings_file(path)).pruning)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from the fields of a dictionary.

        Args:
            config_dict (`Mapping[str, Any]`): what [`~FlabPrunerConfig.to_dict`] returns; the keys that
                transformers and optimum add to saved configurations are ignored.
            kwargs (`dict[str, Any]`): fields that take precedence over those in `config_dict`. With
                `return_unused_kwargs=True`, whatever is not a field is also returned instead of being refused.

        Raises:
            [`ConfigurationError`]: lists every fault at once.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        fields = PrunerSettings.model_fields
        unused = {name: kwargs.pop(name) for name in list(kwargs) if return_unused and name not in fields}
        config = cls(**merge_settings(config_dict, kwargs))
        return (config, unused) if return_unused else config

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, and `flab_version`; none of the fields inherited from a model's
        configuration."""
        values = {name: getattr(self, name) for name in PrunerSettings.model_fields}
        plain = {name: value.model_dump() if isinstance(value, Section) else value for name, value in values.items()}
        return {**plain, "flab_version": __version__}

    def to_json_string(self, use_diff: bool = True) -> str:
        """The fields as JSON text, in the order they are documented in; `use_diff` changes nothing."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the configuration as `flab_config.json`.

        Args:
            save_directory (`str` or `os.PathLike`): the folder; created if it does not exist.
            kwargs (`Any`): as for every configuration of optimum.

        Raises:
            [`ConfigurationError`]: the fields were changed to something faulty.
        """
        self.validate()
        super().save_pretrained(save_directory, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlabPrunerConfig) and self.to_dict() == other.to_dict()
