"""Evaluation of a model, alone or against the dense model it was pruned from, through lm-eval. Orchestration only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.computation import computation_device, computation_devices, computation_dtype
from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel, dense_from_memory
from ..checkpoints.stored_model import StoredModel, check_model
from ..execution import best_isolation, check_packages
from ..execution.isolation import Isolation
from ..execution.packages import parse_packages
from ..records.folders import OutputFolder, check_writable
from ..records.ledger import Meter
from ..records.results import EvaluatedModel, EvaluationConditions
from ..running.casting import copy_in
from ..running.generation import BatchCache, config_hash
from ..running.kernels import prepare_kernels
from ..running.placement import placed, runnable
from ..settings.evaluation import DIVERGENCE, STANDARD, EvaluationSettings
from ..texts.formats import chat_text
from ..texts.sources import hub_datasets
from ..utils.errors import ConfigurationError, FlabError
from ..utils.memory import give_back_memory
from ..utils.places import cache_root, user_path
from ..utils.progress import say
from ..vocabulary.infilling import EXAMPLE, InfillingFormat, infilling_format, missing_tokens
from ..vocabulary.usage import tokenizer_hash
from .catalog import LoadedTask, hub_dataset, load_tasks, quiet
from .first_checks import check_models, check_request, instead_of, no_template, roles_of
from .llama_lm import LlamaLM, llama_for
from .lm import INFILLING, FlabLM
from .results import EVALUATION, Evaluation, limits_met, package_versions
from .scoring import measure_divergence, merge_results, passes, run_task, score_rows
from .standard import tasks_for_tokenizer, with_standard_set
from .tasks.infilling import Question, leaves_a_gap
from .tasks.text import Text, read_texts
from .vocabularies import Source, described, kept_tokens


Model = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel


AT_ONCE, AT_ONCE_ON_GPU = 16, 64  # requests, where the user does not say


@dataclass(frozen=True)
class Exam:
    """What models are asked.

    Args:
        settings ([`~settings.evaluation.EvaluationSettings`]): with the tasks of the standard set in place of it.
        tasks (`list[LoadedTask]`): all but `divergence`.
        texts (`list[Text]`): those of `divergence`, where it is one of the tasks.
        isolation ([`~execution.Isolation`], *optional*): of programs, where any run.
        fim_format ([`~vocabulary.infilling.InfillingFormat`], *optional*): how gaps are asked for; at first only what
            the user names.
        left_out (`list[str]`): what of the standard set is left out, and why.
        confirm_run_unsafe_code (`bool`): whether the user agrees to running what models write.
    """

    settings: EvaluationSettings
    tasks: list[LoadedTask]
    texts: list[Text]
    isolation: Isolation | None
    fim_format: InfillingFormat | None
    left_out: list[str]
    confirm_run_unsafe_code: bool


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
        device (`str` or `torch.device`, *optional*): defaults to `"auto"`: CUDA if there is any, else the CPU; a
            model that one GPU has no room for is spread over all.
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
    meter = Meter()
    names = roles_of(model, revision, baseline, baseline_revision)
    if output is not None:
        OutputFolder(output, EVALUATION, overwrite=overwrite).check()
    check_request(settings, names, confirm_run_unsafe_code)
    computation_device(device, exact=DIVERGENCE in settings.tasks)
    devices = computation_devices(device)
    prepare_kernels(devices[0])
    if settings.batch_size is None:  # it decides what is sampled, so that the record states it
        default = AT_ONCE if devices[0].type == "cpu" else AT_ONCE_ON_GPU
        settings = settings.model_copy(update={"batch_size": default})
    dtype = None if settings.dtype is None else computation_dtype(settings.dtype)
    exam = _prepare(settings, confirm_run_unsafe_code)
    check_models(settings, names)
    sources = {role: source_of(which, at, trust_remote_code, family) for role, (which, at) in names.items()}
    exam = _fit(exam, settings, sources)
    kept = kept_tokens(*(described(sources[role]) for role in ("dense", "pruned"))) if exam.texts else None

    folder = user_path(cache_dir) if cache_dir is not None else cache_root("evaluation")
    check_writable(folder)
    cache = BatchCache(folder)
    models = dict[str, EvaluatedModel]()
    results = dict[str, list[dict[str, Any]]]()
    for role, source in sources.items():
        models[role], results[role] = _answers(exam, role, source, dtype, devices, cache)
        give_back_memory()  # hooks of a model that is spread hold it in a circle
        if devices[0].type == "cuda":
            torch.cuda.empty_cache()

    rows = score_rows(exam.tasks, results, settings.seed)
    protocols = {task.name: task.protocol for task in exam.tasks if task.protocol}
    if exam.texts:
        # by default in float32, as when pruning measures it
        dense, pruned = (load(sources[role], dtype or torch.float32, devices)[0] for role in ("dense", "pruned"))
        measured, protocols[DIVERGENCE] = measure_divergence(
            dense, pruned, kept, exam.texts, min(settings.batch_size or AT_ONCE, AT_ONCE)
        )
        rows += measured
    merged = {role: merge_results(by_task) for role, by_task in results.items()}
    samples = {role: of_role.pop("samples", {}) for role, of_role in merged.items()}
    evaluation = Evaluation(
        date=datetime.now(timezone.utc).date().isoformat(),
        models=models,
        scores=tuple(rows),
        settings=conditions(exam),
        protocols=protocols,
        left_out=tuple(exam.left_out),
        versions=package_versions(),
        outcomes=passes(exam.tasks, results) if settings.samples == 1 else {},
        total=meter.cost(),
        limited={role: met for role, of_role in samples.items() if (met := limits_met(of_role))},
        samples=samples,
        harness={role: {"model": models[role].model_dump(), **of_role} for role, of_role in merged.items()},
        reused=cache.reused,
        made=cache.made,
    )
    if output is not None:
        evaluation.save(output, overwrite=overwrite)
    return evaluation


def _answers(
    exam: Exam,
    role: str,
    source: Source,
    dtype: torch.dtype | None,
    devices: Sequence[torch.device],
    cache: BatchCache,
) -> tuple[EvaluatedModel, list[dict[str, Any]]]:
    """A model, which is loaded for it, and lm-eval's results of each task for it."""
    settings = exam.settings
    loaded, model = load(source, dtype, devices)
    process = None
    if isinstance(source, StoredModel) and source.files.gguf is not None and _writes(exam.tasks):
        process, engine = llama_for(source.files.gguf, settings, model.dtype)
        say(f"note: {role}: {engine}")
        model = model.model_copy(update={"engine": engine})
    results = []
    with process or nullcontext():
        with quiet():
            lm = (FlabLM if process is None else partial(LlamaLM, process))(
                runnable(loaded.model, loaded.family),
                loaded.tokenizer,
                weights_hash=model.weights_sha256,
                cache=cache,
                batch_size=settings.batch_size or AT_ONCE,
                max_new_tokens=settings.max_new_tokens,
                seed=settings.seed,
            )
        for task in exam.tasks:
            lm.doing = f" ({role}, {task.name})"
            results.append(run_task(lm, task, settings.seed, exam.confirm_run_unsafe_code))
    return model, results


def _writes(tasks: Sequence[LoadedTask]) -> bool:
    return any(leaf.OUTPUT_TYPE == "generate_until" for named in tasks for leaf in named.tasks.values())


def _prepare(settings: EvaluationSettings, confirm_run_unsafe_code: bool) -> Exam:
    """What can be checked and loaded before a model is looked for."""
    fim_format = None if settings.fim_format is None else InfillingFormat.parse(settings.fim_format)
    packages = parse_packages(settings.allow_packages)
    asked, left_out = with_standard_set(settings)
    tasks = load_tasks(asked, confirm_run_unsafe_code=confirm_run_unsafe_code, allow_packages=packages)
    isolation = None
    if any(getattr(task, "UNSAFE_CODE", False) for named in tasks for task in named.tasks.values()):
        isolation = best_isolation()  # refused now, not after hours of generation
        check_packages(packages, isolation)
    has_texts = DIVERGENCE in settings.tasks
    texts = read_texts(DIVERGENCE, settings.data[DIVERGENCE], settings.limit) if has_texts else []
    return Exam(asked, tasks, texts, isolation, fim_format, left_out, confirm_run_unsafe_code)


def _fit(exam: Exam, settings: EvaluationSettings, sources: Mapping[str, Source]) -> Exam:
    """What suits the models: of the standard set, if the user names it, what suits the first of them.

    Args:
        sources (`Mapping[str, Source]`): the models by role.
    """
    if STANDARD in settings.tasks:
        tasks, unsuited = tasks_for_tokenizer(exam.tasks, settings, next(iter(sources.values())).tokenizer)
        exam = replace(exam, tasks=tasks, left_out=[*exam.left_out, *unsuited])
    for note in exam.left_out:
        say(f"note: {note}")
    for source in sources.values():
        check_chat_template(source, exam.tasks)
    return ask_for_gaps(exam, list(sources.values()))


def conditions(exam: Exam) -> EvaluationConditions:
    """What was asked for and what else determines the scores."""
    settings = exam.settings
    names = {DIVERGENCE, *(task.name for task in exam.tasks)}
    same = {"limit", "samples", "batch_size", "max_new_tokens", "seed"}
    if settings.samples > 1:
        same |= {"temperature", "top_p"}
    return EvaluationConditions(
        tasks=tuple(task for task in settings.tasks if task in names),
        data={task: tuple(files) for task, files in settings.data.items() if task in names},
        datasets=tuple(hub_datasets(settings.sources)),
        task_datasets={
            leaf: dataset
            for named in exam.tasks
            for leaf, task in named.tasks.items()
            if (dataset := hub_dataset(task)) is not None
        },
        isolation=None if exam.isolation is None else exam.isolation.name,
        allow_packages=tuple(settings.allow_packages),
        fim_format=None if exam.fim_format is None else exam.fim_format.template,
        **settings.model_dump(include=same),
    )


# --- models --------------------------------------------------------------------------------------------------------


def source_of(model: Model, revision: str | None, trust_remote_code: bool, family: str | Path | None = None) -> Source:
    """Finds a model and reads all but its weights.

    Raises:
        [`FlabError`]: it cannot be found or is refused, or the tokenizer does not fit the embeddings.
    """
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, tuple):
        return dense_from_memory(*model, family)
    return check_model(model, revision=revision, trust_remote_code=trust_remote_code, family=family)


def load(
    source: Source, dtype: torch.dtype | None, devices: Sequence[torch.device]
) -> tuple[LoadedModel, EvaluatedModel]:
    """A model with its weights, and what the results say about it. One that was in memory stays as it is.

    Args:
        dtype (`torch.dtype`, *optional*): to compute in; by default that of the weights.
        devices (`Sequence[torch.device]`): see [`~running.placement.placed`].
    """
    loaded = source.load(source.storage_dtype, "cpu") if isinstance(source, StoredModel) else source
    digest = dense_hash(loaded)  # of the checkpoint, whatever dtype is computed in
    if isinstance(source, StoredModel):
        if dtype in (None, loaded.storage_dtype):
            model = loaded.model
        elif loaded.gguf is not None:  # dequantised to that, and not to bfloat16 first
            model = source.load(dtype, "cpu").model
        else:
            place = devices[0] if len(devices) == 1 else torch.device("cpu")
            model = copy_in(loaded.model, place, dtype)  # a cast would round the buffers that stay in float32
            model.generation_config = loaded.model.generation_config
        loaded = replace(loaded, model=placed(model, loaded.family, devices))
    return loaded, EvaluatedModel(
        name=loaded.name,
        revision=loaded.revision,
        weights_sha256=digest,
        config_sha256=config_hash(loaded.model),
        tokenizer_sha256=tokenizer_hash(loaded.tokenizer),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=loaded.model.device.type,
        parameters=loaded.model.num_parameters(),
    )


def check_chat_template(source: Source, tasks: Sequence[LoadedTask]) -> None:
    """Raises a [`FlabError`] if a task needs a chat template that the model lacks, or that refuses a question."""
    for task in tasks:
        if not task.chat_template:
            continue
        if not source.tokenizer.chat_template:
            raise no_template(task.name, source.name)
        try:
            chat_text(source.tokenizer, [{"role": "user", "content": "question"}], add_generation_prompt=True)
        except FlabError as error:
            shown = f"task {task.name!r} shows {source.name!r} a question: {error}"
            raise FlabError(f"{shown}{instead_of(task.name)}") from error


def ask_for_gaps(exam: Exam, sources: Sequence[Source]) -> Exam:
    """Makes the infilling tasks ask in the format that the models were trained on, the same for all models: the one
    that the user names, or that of the first model.

    Raises:
        [`ConfigurationError`]: a format is named, and no task has gaps.
        [`FlabError`]: no format is known for the tokenizer, or a model lacks one of its tokens.
    """
    asking = [task for task in exam.tasks if any(map(leaves_a_gap, task.tasks.values()))]
    if not asking:
        if exam.fim_format is not None:
            raise ConfigurationError(
                f"fim_format: {exam.fim_format.template!r}, but none of the named tasks has gaps to fill; leave it"
                " out, or name a task that has, such as humaneval_infilling"
            )
        return exam
    fim_format = exam.fim_format or infilling_format(sources[0].tokenizer)
    if fim_format is None:
        raise FlabError(
            f"task {asking[0].name!r}: it is not known how to ask {sources[0].name!r} to fill a gap: its tokenizer"
            f" lacks the special tokens of every known format; set `fim_format` to the one that it was trained with,"
            f" such as {EXAMPLE!r}, or leave the task out"
        )
    template = fim_format.template
    for source in sources:
        if missing := missing_tokens(source.tokenizer, fim_format.marks):
            whence = "fim_format" if exam.fim_format else f"the format of {sources[0].name!r}"
            raise FlabError(
                f"task {asking[0].name!r}: {missing[0]!r} (of {whence}: {template!r}) is not a special token of the"
                f" tokenizer of {source.name!r}; set `fim_format` to a format whose tokens it has, or leave the task"
                " out"
            )
    for leaf in (leaf for task in asking for leaf in task.tasks.values() if leaves_a_gap(leaf)):
        leaf.config.doc_to_text = Question(template)
        leaf.config.generation_kwargs = {**leaf.config.generation_kwargs, INFILLING: template}
    tasks = [
        replace(task, protocol=f"{task.protocol or 'infilling'}; asked as {template}") if task in asking else task
        for task in exam.tasks
    ]
    return replace(exam, tasks=tasks, fim_format=fim_format)
