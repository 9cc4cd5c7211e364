"""`flab_evaluation.json` and `flab_efficiency.json`: what was measured on a checkpoint. Their form, written and read.

Lightweight.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from .json_files import Record, parse_record
from .ledger import StageCost
from .paths import without_paths
from .scores import PASSES, Score, metric_text, retention_of, retention_text, score_text, together_text


EVALUATION_NAME, EVALUATION_TABLE = "flab_evaluation.json", "flab_evaluation.txt"
EFFICIENCY_NAME = "flab_efficiency.json"
# the columns of an efficiency report
MODEL, BASELINE = "model", "baseline"


# --- evaluation ----------------------------------------------------------------------------------------------------


class EvaluatedModel(Record):
    """A model that was evaluated.

    Args:
        name (`str`): what the user called it.
        revision (`str`, *optional*): its commit, if it is from the Hub.
        weights_sha256, config_sha256, tokenizer_sha256 (`str`): hashes of its parts.
        dtype, device (`str`): of the computation.
        parameters (`int`): tied weights count once.
        engine (`str`, *optional*): of a GGUF file, what wrote its answers and from which weights.
    """

    name: str
    revision: str | None = None
    weights_sha256: str
    config_sha256: str | None = None
    tokenizer_sha256: str | None = None
    dtype: str | None = None
    device: str | None = None
    parameters: int | None = None
    engine: str | None = None


class ScoreRow(Record):
    """One metric of one task.

    Args:
        higher_is_better (`bool`): false for losses.
        problems (`int`): how many there are; the interval resamples them where there are no clusters.
        clusters (`int`, *optional*): what the interval resamples instead: groups of problems that belong together.
        of (`dict[str, int]`, *optional*): where the row combines several tasks, the number of problems of each.
        dense ([`Score`], *optional*): of the baseline, on the same problems.
        pruned, score ([`Score`], *optional*): of the model that is judged, with a baseline and without.
        retention ([`Score`], *optional*): pruned / dense, see [`~records.scores.retention_of`].
    """

    task: str
    metric: str
    higher_is_better: bool
    problems: int
    clusters: int | None = None
    of: dict[str, int] | None = None
    dense: Score | None = None
    pruned: Score | None = None
    score: Score | None = None
    retention: Score | None = None

    @property
    def own(self) -> Score | None:
        """The score of the model that is judged."""
        return self.pruned or self.score

    def made_of(self, paired: bool) -> str:
        """What a score of several tasks together is made up of, with that of the dense model or without."""
        shown = {"dense": self.dense, "pruned": self.own} if paired else {"pruned": self.own}
        return together_text(self.of or {}, shown)

    @property
    def counted(self) -> str:
        """How many problems, or texts, it is of."""
        kind = "text" if self.task in ("divergence", "perplexity") else "problem"
        return f"{self.problems:,} {kind}{'s' * (self.problems != 1)}"

    def cells(self) -> list[str]:
        """Task, metric, problems, dense, own and retention as text."""
        scores = (score_text(score, self.metric) for score in (self.dense, self.own))
        kept = retention_text(self.retention, self.higher_is_better)
        return [self.task, metric_text(self.metric, self.higher_is_better), f"{self.problems:,}", *scores, kept]


class HubDataset(Record):
    """A dataset on the Hub that the problems of a task are from; `config` and `split` where the task names them."""

    id: str
    config: str | None = None
    split: str | None = None


class EvaluationConditions(Record):
    """What was asked for and what else determines the scores.

    Args:
        data (`dict`): files or sources of text that the user named, by task.
        datasets (`tuple[str, ...]`): ids of the Hub datasets among them.
        task_datasets (`dict[str, HubDataset]`): the datasets of tasks whose problems come from the Hub.
        limit (`int`, *optional*): problems of each task, if not all.
        samples (`int`): programs per problem; `temperature` and `top_p` where there are several.
        max_new_tokens (`int`, *optional*): of a program, where that is not the task's own limit.
        isolation (`str`, *optional*): how programs were isolated from the machine, where any ran.
    """

    tasks: tuple[str, ...] = ()
    data: dict[str, tuple[str, ...]] = {}
    datasets: tuple[str, ...] = ()
    task_datasets: dict[str, HubDataset] = {}
    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    isolation: str | None = None
    allow_packages: tuple[str, ...] = ()
    fim_format: str | None = None

    def sources_of(self, task: str) -> list[str]:
        """The files or sources of text that the user named for a task, without paths."""
        return without_paths(list(self.data[task]), self.datasets, "sources")


class Passes(Record):
    """Which problems of a task were passed, from which scores and their intervals can be computed anew.

    Args:
        problems (`tuple[str, ...]`): by the task's order, what each belongs to: itself, or what it is a part of.
        passed (`dict[str, str]`): by model, a digit for each of them: 1 if it was passed, else 0.
    """

    problems: tuple[str, ...]
    passed: dict[str, Annotated[str, Field(pattern="^[01]*$")]]

    @model_validator(mode="after")
    def _check_digits(self) -> Passes:
        if any(len(digits) != len(self.problems) for digits in self.passed.values()):
            raise ValueError(f"passed must have a digit for each of the {len(self.problems):,} problems")
        return self


class EvaluationRecord(Record):
    """`flab_evaluation.json`.

    Args:
        date (`str`): the day of the evaluation (UTC).
        models (`dict[str, EvaluatedModel]`): `dense` and `pruned`, or `model` alone.
        scores (`tuple[ScoreRow, ...]`): every metric of every task.
        settings ([`EvaluationConditions`]): how it was made.
        protocols (`dict[str, str]`): how each task asks, in words.
        limited (`dict[str, dict[str, dict[str, int]]]`): by model and task, how many programs met which limit of the
            sandbox; they count as failed.
        left_out (`tuple[str, ...]`): what of the standard set was left out, and why.
        versions (`dict[str, str]`): of Python and packages.
        outcomes (`dict[str, Passes]`): by task whose problems one answer each passes or not.
        total ([`StageCost`], *optional*): of the evaluation, without what was reused from earlier runs.
        command (`str`, *optional*): the command line, with names instead of paths.
    """

    date: str | None = None
    models: dict[str, EvaluatedModel]
    scores: tuple[ScoreRow, ...]
    settings: EvaluationConditions = EvaluationConditions()
    protocols: dict[str, str] = {}
    limited: dict[str, dict[str, dict[str, int]]] = {}
    left_out: tuple[str, ...] = ()
    versions: dict[str, str | None] = {}
    outcomes: dict[str, Passes] = {}
    total: StageCost | None = None
    command: str | None = None

    @model_validator(mode="after")
    def _check_models_and_scores(self) -> EvaluationRecord:
        if not self.models.keys() & {"pruned", "model"}:
            raise ValueError("models must hold 'pruned' or 'model'")
        for row in self.scores:
            if row.metric == PASSES and set(row.of or {row.task: 0}) <= self.outcomes.keys():
                self._check_passes(row)
        return self

    def _check_passes(self, row: ScoreRow) -> None:
        """Raises a `ValueError` if a row does not follow from the problems that were passed."""
        passed = [self.outcomes[task].passed for task in row.of or (row.task,)]
        for role, score in (("dense", row.dense), ("pruned", row.pruned), ("model", row.score)):
            if score is not None:
                digits = "".join(one.get(role, "") for one in passed)
                if len(digits) != row.problems or not math.isclose(score.value * row.problems, digits.count("1")):
                    raise ValueError(f"{row.task}, {role}: {score.value:.4g} is not the share of the problems passed")
        if row.retention and row.dense and row.pruned:
            kept = retention_of(row.pruned.value, row.dense.value)
            if not (row.retention.value == kept or math.isclose(row.retention.value, kept) or math.isnan(kept)):
                raise ValueError(f"{row.task}: {row.retention.value:.4g} is not the share that was kept")

    @property
    def own_model(self) -> EvaluatedModel:
        """The model that the scores belong to."""
        return self.models.get("pruned") or self.models["model"]

    @property
    def dense(self) -> EvaluatedModel | None:
        """The baseline."""
        return self.models.get("dense")

    @property
    def notes_on_limits(self) -> list[str]:
        """What the scores of programs do not show: those that met a limit of the sandbox rather than being wrong."""
        return [
            f"{task}, {role}: {number:,} program{'s count' if number > 1 else ' counts'} as failed for meeting limits"
            f" of the sandbox: {', '.join(f'{limit} ({met:,})' for limit, met in limits.items())}"
            for role, tasks in self.limited.items()
            for task, limits in tasks.items()
            for number in [sum(limits.values())]
        ]

    @property
    def measured(self) -> list[str]:
        """What its scores are of, in words."""
        return [f"{row.metric} of {row.task}" for row in self.scores if row.of is None]

    def is_against(self, weights_sha256: str) -> bool:
        """Whether the baseline is the model with these weights."""
        return self.dense is not None and self.dense.weights_sha256 == weights_sha256

    def scores_against(self, weights_sha256: str) -> tuple[ScoreRow, ...]:
        """The scores, with those of the baseline and the retention only if that is the model with these weights."""
        if self.is_against(weights_sha256):
            return self.scores
        return tuple(row.model_copy(update={"dense": None, "retention": None}) for row in self.scores)


# --- efficiency ----------------------------------------------------------------------------------------------------


class Spread(Record):
    """Repeated measurements: their median, quartiles (linear interpolation) and number."""

    median: float
    lower_quartile: float
    upper_quartile: float
    repeats: int | None = None

    def in_unit(self, scale: float) -> Spread:
        """The same in another unit: everything divided by `scale`."""
        parts = {name: getattr(self, name) / scale for name in ("median", "lower_quartile", "upper_quartile")}
        return self.model_copy(update=parts)


class Flops(Record):
    """Floating-point operations per token at batch 1, a multiplication and an addition counted as two.

    Args:
        prefill (`float`): reading the prompt, per prompt token. As in generation, the output head runs once.
        decode (`int`): one token generated after the prompt, with a key-value cache.
    """

    prefill: float
    decode: int


class TimedGeneration(Record):
    """One call of `generate`, in seconds from its start to the first token and to the last."""

    first_token: float
    last_token: float


class EnergyEstimate(Record):
    """Codecarbon's estimate over some seconds of generating at the larger batch, prompts included.

    Args:
        wh_per_1000_tokens (`float`): watt-hours per 1000 generated tokens.
        co2e_grams_per_1000_tokens (`float`): grams of CO2 equivalent per 1000 generated tokens.
        grams_per_kwh (`float`): emissions of the country's electricity.
        method (`str`): how codecarbon determined the energy on this machine.
        components_wh (`dict[str, float]`): watt-hours of the whole measurement by `cpu`, `gpu` and `ram`.
    """

    wh_per_1000_tokens: float
    co2e_grams_per_1000_tokens: float
    country: str
    grams_per_kwh: float
    method: str
    generated_tokens: int
    seconds: float
    components_wh: dict[str, float]


class Footprint(Record):
    """What is measured in a process that holds one model and nothing else.

    Args:
        peak_rss_bytes (`int`): peak resident memory of a process that loads the model and generates at the larger
            batch.
        rss_before_loading_bytes (`int`): resident memory of that process with the libraries alone.
        peak_cuda_bytes (`int`, *optional*): peak of the memory that torch allocated on the CUDA device.
        energy ([`EnergyEstimate`], *optional*): `None` where no estimate was asked for or possible.
    """

    peak_rss_bytes: int
    rss_before_loading_bytes: int
    peak_cuda_bytes: int | None = None
    energy: EnergyEstimate | None = None


class MeasuredModel(Footprint):
    """Everything measured for one model.

    Args:
        dtype (`str`): number format of the computation.
        parameters (`int`): their number; tied weights count once.
        checkpoint_bytes (`int`): size of the weight files.
        time_to_first_token (`dict[int, Spread]`): seconds by batch size.
        tokens_per_second (`dict[int, Spread]`): tokens generated after the first, of all prompts together, by batch
            size.
        runs (`dict[int, tuple[TimedGeneration, ...]]`): every timed call by batch size.
    """

    name: str
    revision: str | None = None
    dtype: str
    parameters: int
    checkpoint_bytes: int
    flops_per_token: Flops
    time_to_first_token: dict[int, Spread]
    tokens_per_second: dict[int, Spread]
    runs: dict[int, tuple[TimedGeneration, ...]]


def figure_text(figure: Spread | float | None) -> str:
    """A median with its quartiles, or a number, of three significant digits and every digit before the point."""
    if figure is None:
        return "-"
    if isinstance(figure, Spread):
        if figure.repeats == 1:
            return figure_text(figure.median)
        quartiles = map(figure_text, (figure.lower_quartile, figure.upper_quartile))
        return f"{figure_text(figure.median)} [{', '.join(quartiles)}]"
    if isinstance(figure, int) or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:#.3g}" if figure else "0"


def rounds_text(repeats: int) -> str:
    """What is shown of several rounds, or of one."""
    return f"medians of {repeats:,} rounds with quartiles" if repeats > 1 else "one round"


class EfficiencyRow(Record):
    """A row of the table.

    Args:
        unit (`str`): empty for plain counts.
        better (`str`): `lower` or `higher`.
        baseline, model ([`Spread`] or `float`, *optional*): of the dense and the pruned model, in the unit.
        ratio (`float`, *optional*): model / baseline.
    """

    metric: str
    unit: str
    better: str
    baseline: Spread | int | float | None = None
    model: Spread | int | float | None = None
    ratio: float | None = None

    def cells(self) -> dict[str, str]:
        """The metric with its unit, the value of each column, and the ratio, as text."""
        label = f"{self.metric} ({self.unit})" if self.unit else self.metric
        values = {name: figure_text(getattr(self, name)) for name in (BASELINE, MODEL)}
        return {"": label, **values, "ratio": "" if self.ratio is None else f"{self.ratio:.2f}x"}


class EfficiencyRecord(Record):
    """`flab_efficiency.json`.

    Args:
        workload (`dict`): what the models did: tokens of a prompt, generated tokens, rounds and the like.
        device (`str`): the torch device.
        machine (`str`): the processor or GPU, and the number of threads.
        table (`tuple[EfficiencyRow, ...]`): the figures.
        models (`dict[str, MeasuredModel]`): `model`, and `baseline` if there was one; in bytes and seconds.
        notes (`tuple[str, ...]`): how to read the figures.
        versions (`dict[str, str]`): of Python and the packages that matter.
    """

    workload: dict[str, Any]
    device: str
    machine: str
    table: tuple[EfficiencyRow, ...]
    models: dict[str, MeasuredModel]
    notes: tuple[str, ...] = ()
    versions: dict[str, str | None] = {}

    @property
    def measured(self) -> list[str]:
        """What its figures are of, in words."""
        return ["efficiency"]

    @property
    def own_model(self) -> MeasuredModel:
        """The model that the figures belong to."""
        return self.models[MODEL]


def parse_result(content: dict[str, Any], path: Path) -> EvaluationRecord | EfficiencyRecord:
    """What a file of results says, which its name tells the kind of.

    Raises:
        [`FlabError`]: it is not as it was written.
    """
    advice = "evaluate or measure again"
    if path.name.startswith(EVALUATION_NAME[:-5]):
        return parse_record(EvaluationRecord, content, path, advice)
    return parse_record(EfficiencyRecord, content, path, advice)


def result_text(result: Record) -> str:
    """The content of a results file: the fields that were set."""
    return result.model_dump_json(indent=2, exclude_unset=True) + "\n"
