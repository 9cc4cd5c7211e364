"""Files of evaluations and efficiency as a card reads them: what it does not show is ignored."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, model_validator

from ..measuring.scores import Score
from .paths import without_paths


class View(BaseModel):
    """What is read from a section of a file."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)


class MeasuredModel(View):
    """A model that was evaluated or measured.

    Args:
        weights_sha256 (`str`, *optional*): hash of its weights.
        dtype (`str`, *optional*): the dtype it was computed in.
        parameters (`int`, *optional*): tied weights count once.
        checkpoint_bytes (`int`, *optional*): of the files of its weights.
    """

    weights_sha256: str | None = None
    dtype: str | None = None
    parameters: int | None = None
    checkpoint_bytes: int | None = None


# --- evaluations ---------------------------------------------------------------------------------------------------


class ScoreValue(View):
    """A score.

    Args:
        value (`float`, *optional*): `None` where it is not a finite number.
        interval_95 (`tuple[float, float]`, *optional*): an end that is not a finite number is `None`.
        passes (`float`, *optional*): for a score of several tasks combined: how many problems were passed.
    """

    value: float | None = None
    passes: float | None = None
    interval_95: tuple[float | None, float | None] | None = None

    @property
    def number(self) -> float | None:
        """The value, if it is a finite number: neither YAML nor the Hub's model-index accepts anything else."""
        return self.value if self.value is not None and math.isfinite(self.value) else None

    def score(self) -> Score:
        """The score as the terminal shows it."""
        interval = None
        if self.interval_95 is not None:
            low, high = self.interval_95
            interval = _end(low, -math.inf), _end(high, math.inf)
        return Score(math.nan if self.number is None else self.number, interval)


def _end(value: float | None, side: float) -> float:
    return side if value is None or not math.isfinite(value) else value


class ScoreRow(View):
    """One metric of one task.

    Args:
        higher_is_better (`bool`): `False` for losses.
        problems (`int`, *optional*): how many there are.
        dense ([`ScoreValue`], *optional*): of the baseline, if there was one.
        pruned, score ([`ScoreValue`], *optional*): of the evaluated model, with a baseline and without.
        retention ([`ScoreValue`], *optional*): pruned score / dense score.
        of (`dict[str, int]`): where the row combines several tasks, the number of problems of each.
    """

    task: str
    metric: str
    higher_is_better: bool = True
    problems: int | None = None
    dense: ScoreValue | None = None
    pruned: ScoreValue | None = None
    score: ScoreValue | None = None
    retention: ScoreValue | None = None
    of: dict[str, int] = {}

    @property
    def is_of_one_kind(self) -> bool:
        """Whether it is one of the rows beside a total, `metric[kind]`."""
        return self.metric.endswith("]")

    @property
    def own(self) -> ScoreValue | None:
        """The score of the model that the card is about."""
        return self.pruned or self.score


class HubDataset(View):
    """A dataset on the Hub that problems come from.

    Args:
        id (`str`): `owner/name`.
        config, split (`str`, *optional*): where they are known.
    """

    id: str
    config: str | None = None
    split: str | None = None


class HowEvaluated(View):
    """The settings of an evaluation.

    Args:
        data (`dict`): files or sources of text named for tasks, by task.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
        task_datasets (`dict[str, HubDataset]`): the datasets of tasks whose problems come from the Hub.
        limit (`int`, *optional*): problems of each task, if not all.
        samples (`int`, *optional*): programs per problem.
        temperature (`float`, *optional*): of the sampling.
        max_new_tokens (`int`, *optional*): of a program.
        seed (`int`, *optional*): of sampling and bootstrap.
    """

    data: dict[str, tuple[str, ...] | str | None] = {}
    datasets: tuple[str, ...] = ()
    task_datasets: dict[str, HubDataset] = {}
    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None

    def files(self, task: str) -> list[str]:
        """The names of files (or sources of text) that the user named for a task, without paths."""
        given = self.data.get(task) or ()
        return without_paths([given] if isinstance(given, str) else list(given), self.datasets, "sources")


class MeasuredScores(View):
    """`flab_evaluation.json`.

    Args:
        date (`str`, *optional*): the day of the evaluation.
        models (`dict[str, MeasuredModel]`): `dense` and `pruned`, or `model` alone.
        scores (`tuple[ScoreRow, ...]`): the table.
        settings ([`HowEvaluated`]): how it was made.
        protocols (`dict[str, str]`): how tasks ask, in words.
        versions (`dict[str, str]`): of Python and packages.
    """

    date: str | None = None
    models: dict[str, MeasuredModel]
    scores: tuple[ScoreRow, ...]
    settings: HowEvaluated = HowEvaluated()
    protocols: dict[str, str] = {}
    versions: dict[str, str | None] = {}

    @model_validator(mode="after")
    def _names_its_model(self) -> MeasuredScores:
        if not {"pruned", "model"} & self.models.keys():
            raise ValueError("it does not say which model it belongs to")
        return self

    @property
    def judged(self) -> MeasuredModel:
        """The model that the scores belong to."""
        return self.models.get("pruned") or self.models["model"]

    @property
    def dense(self) -> MeasuredModel | None:
        """The baseline."""
        return self.models.get("dense")


# --- efficiency ----------------------------------------------------------------------------------------------------


class Quartiles(View):
    """Repeated measurements, in the unit of their row."""

    median: float
    lower_quartile: float
    upper_quartile: float


class EfficiencyRow(View):
    """A row of the table.

    Args:
        unit (`str`): empty for plain counts.
        baseline, model ([`Quartiles`] or `float`, *optional*): of the dense and the pruned model, in the unit.
        ratio (`float`, *optional*): model / baseline.
    """

    metric: str
    unit: str = ""
    baseline: Quartiles | int | float | None = None
    model: Quartiles | int | float | None = None
    ratio: float | None = None


class Rounds(View):
    """What the models did: tokens of a prompt, generated tokens, and rounds."""

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    repeats: int | None = None


class MeasuredEfficiency(View):
    """`flab_efficiency.json`.

    Args:
        workload ([`Rounds`]): what the models did.
        device, machine (`str`, *optional*): what they ran on.
        table (`tuple[EfficiencyRow, ...]`): the figures.
        models (`dict[str, MeasuredModel]`): `model`, and `baseline` if there was one.
        notes (`tuple[str, ...]`): how to read the figures.
    """

    workload: Rounds = Rounds()
    device: str | None = None
    machine: str | None = None
    table: tuple[EfficiencyRow, ...] = ()
    models: dict[str, MeasuredModel]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_its_model(self) -> MeasuredEfficiency:
        if "model" not in self.models:
            raise ValueError("it does not say which model it belongs to")
        return self

    @property
    def judged(self) -> MeasuredModel:
        """The model that the figures belong to."""
        return self.models["model"]
