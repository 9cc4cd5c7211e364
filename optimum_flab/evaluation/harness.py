"""Evaluation of a model, alone or against the dense model it was pruned from, through lm-eval. Orchestration only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.computation import computation_device, computation_dtype
from ..checkpoints.loading import LoadedModel
from ..checkpoints.stored_model import StoredModel
from ..execution import best_isolation, check_packages, warn_of
from ..execution.isolation import Isolation
from ..execution.packages import parse_packages
from ..families.positions import most_positions
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.folders import OutputFolder, check_writable
from ..records.held_out import HeldOut
from ..records.plan import PLAN_NAME, PruningPlan
from ..records.results import EvaluatedModel, EvaluationConditions, ScoreRow
from ..records.scores import Score
from ..running.generation import BatchCache
from ..running.layer_pass import LayerPass
from ..settings.evaluation import DIVERGENCE, STANDARD, EvaluationSettings, check_evaluation
from ..settings.pruning import DataSettings
from ..texts.sources import hub_datasets
from ..utils.errors import FlabError
from ..utils.places import cache_root, user_path
from ..utils.progress import say
from ..vocabulary.infilling import InfillingFormat
from .catalog import DIVERGENCE_PROTOCOL, LoadedTask, hub_dataset, load_tasks, quiet
from .lm import FlabLM
from .models import Model, Source, ask_for_gaps, check_chat_template, load, source_of
from .results import EVALUATION, Evaluation, package_versions
from .scoring import compare_task, compare_together, merge_results, run_task, without_interval
from .standard import suited, with_standard_set
from .tasks.text import Text, read_texts


def evaluate(
    model: Model,
    settings: EvaluationSettings,
    *,
    baseline: Model | None = None,
    device: str | torch.device | None = None,
    confirm_run_unsafe_code: bool = False,
    cache_dir: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    baseline_revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> Evaluation:
    """Evaluates a model and, with a baseline, reports how much of the baseline's scores it retains.

    One model is in memory at a time, except for the task `divergence`, which needs both. The results of every batch
    are kept in the cache, so an interrupted run resumes where it stopped, with the same results.

    ```python
    >>> settings = EvaluationSettings(tasks="mbpp")
    >>> evaluation = evaluate("out", settings, baseline="org/dense", confirm_run_unsafe_code=True)
    >>> print(evaluation.to_text())
    ```

    Args:
        model: the model that is judged: a Hub id, a folder, a GGUF file, or a model with its tokenizer, which then
            stay where they are and in their dtype.
        settings ([`~settings.evaluation.EvaluationSettings`]): the tasks, and how they are asked.
        baseline (*optional*): the dense model, in the same forms as `model`.
        device (`str` or `torch.device`, *optional*): defaults to CUDA if there is any, else the CPU.
        confirm_run_unsafe_code (`bool`): consent to run what the models write, in the sandbox.
        cache_dir (`str` or `Path`, *optional*): defaults to `optimum_flab/evaluation` in the folder of the Hugging
            Face cache (`HF_HOME`).
        output (`str` or `Path`, *optional*): folder to write the results to.
        overwrite (`bool`): whether an existing evaluation may be replaced.
        revision, baseline_revision (`str`, *optional*): branch, tag or commit of models on the Hub.
        trust_remote_code (`bool`): run the Python code that a model's repository brings.
        family (`str` or `Path`, *optional*): a file that describes the family of the models. Defaults to a known
            family.

    Returns:
        [`Evaluation`]: the scores; `print(evaluation.to_text())` shows the table.

    Raises:
        [`ConfigurationError`]: a task is unknown, consent is missing, or a package cannot be imported in the sandbox.
        [`FlabError`]: data is malformed or unavailable, a model does not load, lacks a chat template that a task
            needs, or does not fit its tokenizer, or a task runs code outside the sandbox. All of this before weights
            are read, where possible.
    """
    check_evaluation(settings, has_baseline=baseline is not None)
    if settings.fim_format is not None:
        InfillingFormat.parse(settings.fim_format)
    packages = parse_packages(settings.allow_packages) if settings.allow_packages else ()
    if output is not None:
        OutputFolder(output, EVALUATION, overwrite=overwrite).check()
    device = computation_device(device)
    dtype = None if settings.dtype is None else computation_dtype(settings.dtype)
    asked, left_out = with_standard_set(settings)
    loaded = load_tasks(asked, confirm_run_unsafe_code=confirm_run_unsafe_code, allow_packages=packages)
    isolation = None
    if any(getattr(task, "UNSAFE_CODE", False) for named in loaded for task in named.tasks.values()):
        isolation = best_isolation()  # refused now, not after hours of generation
        warn_of(isolation)
        check_packages(packages, isolation)
    texts = None
    if DIVERGENCE in settings.tasks:
        texts = read_texts(DIVERGENCE, settings.data[DIVERGENCE], settings.limit)

    names = {"model": (model, revision)}
    if baseline is not None:
        names = {"dense": (baseline, baseline_revision), "pruned": (model, revision)}
    sources = {role: source_of(which, at, trust_remote_code, family) for role, (which, at) in names.items()}
    if STANDARD in settings.tasks:
        loaded, unsuited = suited(loaded, settings, next(iter(sources.values())).tokenizer)
        left_out += unsuited
    for note in left_out:
        say(f"note: {note}")
    for source in sources.values():
        check_chat_template(source, loaded)
    loaded, infilling = ask_for_gaps(sources, loaded, settings.fim_format)

    if texts is not None:
        kept = kept_tokens(sources["dense"], sources["pruned"])
    folder = user_path(cache_dir) if cache_dir is not None else cache_root("evaluation")
    check_writable(folder)
    cache = BatchCache(folder)
    runs: dict[str, list[dict[str, Any]]] = {}
    models: dict[str, EvaluatedModel] = {}
    for role, source in sources.items():
        loaded_model, models[role] = load(source, dtype, device)
        with quiet():
            lm = FlabLM(
                loaded_model.model,
                loaded_model.tokenizer,
                weights_hash=models[role].weights_sha256,
                cache=cache,
                batch_size=settings.batch_size,
                max_new_tokens=settings.max_new_tokens,
                seed=settings.seed,
            )
        runs[role] = []
        for task in loaded:
            lm.doing = f" ({role}, {task.name})"
            runs[role].append(run_task(lm, task, settings.seed, confirm_run_unsafe_code))
        del lm, loaded_model
        if device.type == "cuda":
            torch.cuda.empty_cache()

    rows = [
        row
        for number, task in enumerate(loaded)
        for row in compare_task(task, {role: results[number] for role, results in runs.items()}, settings.seed)
    ]
    rows += compare_together(loaded, runs, settings.seed)
    protocols = {task.name: task.protocol for task in loaded if task.protocol}
    if texts is not None:
        # by default in float32, as when pruning measures it
        dense, pruned = (load(sources[role], dtype or torch.float32, device)[0] for role in ("dense", "pruned"))
        measured, protocols[DIVERGENCE] = measure_divergence(dense, pruned, kept, texts, settings.batch_size)
        del dense, pruned
        rows += measured
    merged = {role: merge_results(results) for role, results in runs.items()}
    evaluation = Evaluation(
        date=datetime.now(timezone.utc).date().isoformat(),
        models=models,
        scores=tuple(rows),
        settings=conditions(asked, loaded, isolation, infilling),
        protocols=protocols,
        left_out=tuple(left_out),
        versions=package_versions(),
        harness={role: {"model": models[role].model_dump(), **results} for role, (results, _) in merged.items()},
        samples={role: kept for role, (_, kept) in merged.items()},
        reused=cache.reused,
        made=cache.made,
    )
    if output is not None:
        evaluation.save(output, overwrite=overwrite)
    return evaluation


def conditions(
    settings: EvaluationSettings,
    loaded: Sequence[LoadedTask],
    isolation: Isolation | None,
    infilling: InfillingFormat | None,
) -> EvaluationConditions:
    """What was asked for and what else determines the scores."""
    names = {DIVERGENCE, *(task.name for task in loaded)}
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p} if settings.samples > 1 else {}
    return EvaluationConditions(
        tasks=tuple(task for task in settings.tasks if task in names),
        data={task: tuple(files) for task, files in settings.data.items() if task in names},
        datasets=tuple(hub_datasets(settings.sources)),
        task_datasets={
            leaf: dataset
            for named in loaded
            for leaf, task in named.tasks.items()
            if (dataset := hub_dataset(task)) is not None
        },
        limit=settings.limit,
        samples=settings.samples,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        isolation=None if isolation is None else isolation.name,
        allow_packages=tuple(settings.allow_packages),
        fim_format=None if infilling is None else infilling.template,
        **sampling,
    )


# --- divergence ----------------------------------------------------------------------------------------------------


def measure_divergence(
    before: LoadedModel, after: LoadedModel, kept: list[int] | None, texts: Sequence[Text], batch_size: int
) -> tuple[list[ScoreRow], str]:
    """Divergence and bits per byte of both models on texts, per kind and on all, and how they were measured."""
    kinds: dict[str, list[str]] = {}
    for text in texts:
        kinds.setdefault(text.kind, []).append(text.text)
    length = DataSettings().sequence_length
    length = min(length, most_positions(before.model.config, before.family) or length)
    vocab_size, by_kind = after.model.get_input_embeddings().weight.shape[0], {}
    for kind, of_kind in kinds.items():
        cut = tokenise_both(before.tokenizer, after.tokenizer, kept, vocab_size, of_kind, length)
        reading = LayerPass(before.model, before.family, cut.shared, batch_size)
        by_kind[kind] = DenseReference(reading, cut).measure(after.model)
    columns = {"": list(by_kind.values())}
    if len(by_kind) > 1:
        columns |= {f"[{kind}]": [measured] for kind, measured in by_kind.items()}
    rows = [row for metric in ("divergence", "bits_per_byte", "lost_mass") for row in _rows(metric, columns)]
    return rows, (
        f"{DIVERGENCE_PROTOCOL} (lost_mass is what the dense model assigned to the rest), computed in"
        f" {str(before.model.dtype).removeprefix('torch.')} on pieces of at most {length:,} tokens; its"
        " bits per byte leave out the first token of each, which perplexity counts"
    )


def _rows(metric: str, columns: Mapping[str, Sequence[HeldOut]]) -> Iterator[ScoreRow]:
    """The rows of a metric: for each name, what was measured on one kind of text, or on several."""
    for name, kinds in columns.items():
        number = sum(measured.texts for measured in kinds)
        row = ScoreRow(task=DIVERGENCE, metric=f"{metric}{name}", higher_is_better=False, problems=number)
        if metric == "bits_per_byte":
            bits = {
                role: _mean([(getattr(measured, f"{role}_bits_per_byte"), measured.bytes) for measured in kinds])
                for role in ("dense", "pruned")
            }
            yield without_interval(row, bits)
        else:
            value = _mean([(getattr(measured, metric), measured.positions) for measured in kinds])
            yield row.model_copy(update={"score": Score(value=value, interval_95=None)})


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    """The mean of values with weights; a single value unchanged."""
    if len(weighted) == 1:
        return weighted[0][0]
    return sum(value * weight for value, weight in weighted) / max(sum(weight for _, weight in weighted), 1)


def kept_tokens(dense: Source, pruned: Source) -> list[int] | None:
    """The dense id of every token of the pruned model: from its plan, else by the tokens' names.

    Raises:
        [`FlabError`]: it is of another family, or has tokens that the dense one lacks.
    """
    types = [
        (source.config if isinstance(source, StoredModel) else source.model.config).model_type
        for source in (dense, pruned)
    ]
    if types[0] != types[1]:
        raise FlabError(
            f"task 'divergence': {pruned.name!r} is a {types[1]} model, and {dense.name!r} a {types[0]} one; name the"
            " model that it was pruned from as the baseline"
        )
    ids, own = dense.tokenizer.get_vocab(), pruned.tokenizer.get_vocab()
    if pruned.folder is not None and (pruned.folder / PLAN_NAME).is_file():
        kept = PruningPlan.load(pruned.folder).kept_tokens
        named = {number: name for name, number in ids.items()}
        at = range(len(own)) if kept is None else kept
        wrong = [name for name, number in own.items() if number >= len(at) or named.get(at[number]) != name]
        if wrong:
            raise FlabError(
                f"task 'divergence': {PLAN_NAME} of {pruned.name!r} was not made from {dense.name!r}: their tokens"
                f" differ ({wrong[0]!r}, for one); name the model that it was pruned from as the baseline"
            )
        return kept
    if own == ids:
        return None
    by_number = sorted(own, key=own.__getitem__)
    if missing := [name for name in by_number if name not in ids]:
        raise FlabError(
            f"task 'divergence': {pruned.name!r} has no {PLAN_NAME} and {len(missing)} tokens that {dense.name!r}"
            f" lacks ({missing[0]!r}, for one); name the model that it was pruned from as the baseline"
        )
    return [ids[name] for name in by_number]
