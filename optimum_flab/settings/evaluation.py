"""The settings of an evaluation, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PositiveFloat, PositiveInt, field_validator

from ..utils.errors import ConfigurationError
from .section import Dtype, Flag, Packages, Section, Seed, Share, Sources, as_text


DIVERGENCE = "divergence"  # needs both models, so it is not an lm-eval task
STANDARD = "standard"  # stands for several tasks


class EvaluationSettings(Section):
    """What a model is evaluated on, and how; the `evaluation` section of a settings file.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value at once.

    Example:

    ```python
    >>> from optimum_flab import EvaluationSettings

    >>> EvaluationSettings(tasks="humaneval,mbpp", limit=20).tasks
    ['humaneval', 'mbpp']
    ```
    """

    tasks: Annotated[Sources, Flag(metavar="TASK[,TASK...]")] = []
    """what to evaluate on, separated by commas: `standard`, the set by which models are compared, and tasks of this
    package, of the folder with your own, or of lm-eval; may be given several times (default: none)"""
    data: Annotated[dict[str, Sources], Flag(metavar="TASK=FILE")] = {}
    """file with the problems of a task (.jsonl, .json, .csv or .parquet, optionally .gz); for perplexity and
    divergence any source of text; may be given several times, for recode also for the same task; that of a task which
    is not evaluated is not read; codeharmony=FILE also serves `standard` (default: the task's dataset on the Hub)"""
    include_path: Annotated[str | None, BeforeValidator(as_text), Flag(metavar="FOLDER")] = None
    """folder with tasks of your own, one YAML each"""
    limit: PositiveInt | None = None
    """only the first N problems of each task (default: all)"""
    samples: PositiveInt = 1
    """programs per problem of a code generation task; 1 is greedy, more yield pass@k"""
    temperature: Annotated[PositiveFloat, Flag(metavar="T")] = 0.8
    """sampling temperature if there are several samples"""
    top_p: Annotated[Share, Flag(metavar="P")] = 0.95
    """top-p of this sampling"""
    max_new_tokens: PositiveInt | None = None
    """maximum number of tokens of a completion (default: set by each task, 64 to 512)"""
    fim_format: Annotated[str | None, Flag(metavar="TEMPLATE")] = None
    """how the models are prompted to fill a gap: their special tokens with {prefix} and {suffix} among them, such as
    '<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>' (default: that of the tokenizer, if known)"""
    batch_size: PositiveInt | None = None
    """requests per batch, fewer where memory ends (default: 16 on the CPU, else 64)"""
    seed: Seed = 0
    """seed of sampling and of the bootstrap"""
    dtype: Dtype = None
    """number format of the computation; a GGUF file is dequantised to it, and llama.cpp does not write its answers
    (default: that of the weights; for divergence float32)"""
    allow_packages: Packages = []
    """packages installed here that the models' programs may import, each by its import name, together with its own
    dependencies; may be given several times (default: only the standard library)"""

    @field_validator("tasks", "allow_packages")
    @classmethod
    def _split_at_commas(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(name for text in value for name in map(str.strip, text.split(",")) if name))

    @property
    def sources(self) -> list[str]:
        """Every file and source that is named."""
        return [file for files in self.data.values() for file in files]


def check_evaluation(settings: EvaluationSettings, has_baseline: bool) -> None:
    """Raises a [`ConfigurationError`] if no task is named, or one that lacks what it needs.

    Args:
        has_baseline (`bool`): whether there is a model to compare with.
    """
    check_tasks(settings)
    if DIVERGENCE in settings.tasks:
        if not has_baseline:
            raise ConfigurationError("task 'divergence' compares two models; name the dense one as `baseline`")
        if not settings.data.get(DIVERGENCE):
            raise ConfigurationError("task 'divergence' measures on text that you name; name a source in `data`")


def check_tasks(settings: EvaluationSettings) -> None:
    """Raises a [`ConfigurationError`] if no task is named."""
    if not settings.tasks:
        raise ConfigurationError("no task is named; set `tasks`, such as divergence, perplexity or humaneval")
