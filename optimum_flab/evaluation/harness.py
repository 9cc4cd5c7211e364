"""Evaluation of a model, alone or against the dense model it was pruned from, through lm-eval. Orchestration only."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lm_eval.evaluator
import numpy as np
import torch
from lm_eval.api import metrics as lm_eval_metrics
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..cache import cache_root
from ..checkpoints.computation import computation_device, computation_dtype
from ..checkpoints.finding import ModelFiles, find_model
from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel, dense_from_memory, load_dense
from ..checkpoints.model_config import read_model_config
from ..checkpoints.surgery import copy_in
from ..checkpoints.tokenizer import check_vocabulary, load_tokenizer
from ..checkpoints.weight_files import stored_dtype
from ..checkpoints.weights import check_weights
from ..errors import ConfigurationError, FlabError
from ..execution import best_isolation, check_packages, warn_of
from ..execution.packages import named_packages
from ..families import Family
from ..measuring.held_out import measure_held_out
from ..records.folders import Kind, OutputFolder
from ..records.plan import PLAN_NAME, PruningPlan
from ..running.generation import BatchCache, config_hash, tokenizer_hash
from ..settings.evaluation import DIVERGENCE, check_settings, listed
from ..settings.pruning import DataSettings
from ..texts.sources import hub_datasets
from . import comparison
from .catalog import LoadedTask, Sampling, divergence_texts, hub_dataset, load_tasks, quiet
from .comparison import Comparison, OfSums, Score
from .lm import FlabLM


RESULTS_NAME = "flab_evaluation.json"
TABLE_NAME = "flab_evaluation.txt"
ROLES = ("model", "dense", "pruned")
EVALUATION = Kind("an evaluation", RESULTS_NAME, lambda path: path.name in (RESULTS_NAME, TABLE_NAME, *ROLES))
PACKAGES = ("optimum-flab", "lm_eval", "torch", "transformers", "tokenizers", "sacrebleu")
MOST_NAMED = 10  # missing packages that a note lists
# lm-eval's aggregations that are functions of sums, by their name in its registry
KNOWN_AGGREGATIONS = {
    "mean": comparison.MEAN,
    "perplexity": comparison.PERPLEXITY,
    "weighted_perplexity": comparison.WEIGHTED_PERPLEXITY,
    "bits_per_byte": comparison.BITS_PER_UNIT,
}

Model = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel


@dataclass(repr=False)
class Evaluation:
    """What an evaluation found.

    Args:
        comparisons (`list[Comparison]`): the table: every metric of every task.
        models (`dict[str, dict]`): which models were judged, under `"dense"` and `"pruned"`, or a single one under
            `"model"`; each with the hash of its weights.
        settings (`dict`): what was asked for.
        protocols (`dict[str, str]`): how each task asks, and whether lm-eval's task of its name does so too.
        harness (`dict[str, dict]`): lm-eval's own results per model, without samples.
        samples (`dict[str, dict[str, list]]`): lm-eval's samples per model and task.
        reused, made (`int`): batches that were read from the cache, and that were computed.
        date (`str`): the day it was made (UTC).
    """

    comparisons: list[Comparison]
    models: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    protocols: dict[str, str] = field(default_factory=dict)
    harness: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    reused: int = 0
    made: int = 0
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())

    def __repr__(self) -> str:
        return self.to_text()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the samples."""
        return {
            "date": self.date,
            "models": self.models,
            "scores": [row.to_dict() for row in self.comparisons],
            "settings": self.settings,
            "protocols": self.protocols,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }

    def to_text(self) -> str:
        """The table for the terminal; brackets are 95% intervals. Where less is better, retention is the change."""
        paired = "dense" in self.models
        headings = {"dense": "dense", "score": "pruned", "retention": "retention"} if paired else {"score": "score"}
        lines = [
            f"{role}: {model['name']} (weights {model['weights_sha256'][:12]}, {model['dtype']})"
            for role, model in self.models.items()
        ]
        notes = [f"note: {note}" for note in self.notes()]
        return "\n".join([*lines, "", comparison.table(self.comparisons, headings), *([""] if notes else []), *notes])

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        notes = [f"{task}: {protocol}" for task, protocol in self.protocols.items()]
        if self.settings.get("isolation") == "degraded":
            notes.append("programs ran with resource limits only: bubblewrap is missing or does not work")
        for role, tasks in self.samples.items():
            for task, samples in tasks.items():
                notes += [f"{task}, {role}: {note}" for note in notes_on_programs(samples)]
        if any(row.task == DIVERGENCE for row in self.comparisons):
            notes.append(
                "divergence is over the vocabulary that is left (lost_mass is what the dense model gave to the rest),"
                f" computed in {self.settings['divergence_dtype']}, and its bits per byte leave out the first token of"
                " every text, which perplexity counts"
            )
        return notes

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the table, its numbers, and lm-eval's results and samples per model.

        Raises:
            [`FlabError`]: the folder exists and is not to be overwritten, or cannot be written.
        """
        with OutputFolder(folder, EVALUATION, overwrite=overwrite) as output:
            self.save_to(output)

    def save_to(self, output: OutputFolder) -> None:
        """[`save`] to a folder that was reserved before."""
        with output.written() as partial:
            _write_json(partial / RESULTS_NAME, self.to_dict())
            (partial / TABLE_NAME).write_text(self.to_text() + "\n", encoding="utf-8")
            for role, results in self.harness.items():
                (partial / role).mkdir()
                _write_json(partial / role / "results.json", results)
                for task, samples in self.samples[role].items():
                    with (partial / role / f"samples_{_file_name(task)}.jsonl").open("w", encoding="utf-8") as file:
                        for sample in samples:
                            file.write(_as_json(sample) + "\n")


def evaluate(
    model: Model,
    tasks: str | Sequence[str],
    *,
    baseline: Model | None = None,
    data: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
    include_path: str | Path | None = None,
    limit: int | None = None,
    samples: int = 1,
    temperature: float = 0.8,
    top_p: float = 0.95,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    confirm_run_unsafe_code: bool = False,
    allow_packages: str | Sequence[str] = (),
    cache_dir: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    baseline_revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
) -> Evaluation:
    """Evaluates a model, and with a baseline says how much of the baseline's scores it retains.

    One model is in memory at a time, except for the task `divergence`, which needs both. What every batch gave is kept
    in the cache, so a run that was interrupted goes on where it was, with the same results.

    Args:
        model: the model that is judged: a Hub id, a folder, a GGUF file, or a model with its tokenizer, which then
            stay where they are and in their dtype.
        tasks (`str` or `Sequence[str]`): names of our tasks, of tasks in `include_path`, or of lm-eval's own.
        baseline (*optional*): the dense model, given like `model`.
        data (`Mapping`, *optional*): for some tasks, the file (for `recode` several) that replaces their data.
        include_path (`str` or `Path`, *optional*): folder with tasks of your own, a YAML and its data each.
        limit (`int`, *optional*): only the first so many problems of each task.
        samples (`int`): programs per problem of a code generation task; 1 is greedy, more are drawn for pass@k.
        temperature (`float`), top_p (`float`): of these draws.
        batch_size (`int`): requests per batch.
        max_new_tokens (`int`, *optional*): most tokens of a completion. Defaults to what each task says.
        dtype (`str` or `torch.dtype`, *optional*): what to compute in. Defaults to what the weights are stored in.
        device (`str` or `torch.device`, *optional*): defaults to CUDA if there is any, else the CPU.
        seed (`int`): of the draws and of the bootstrap.
        confirm_run_unsafe_code (`bool`): consent to run what the models write, in the sandbox.
        allow_packages (`str` or `Sequence[str]`): packages of this environment that these programs may import beside
            the standard library, by the names they are imported by, such as `"numpy"`. What a package needs itself has
            to be named too. Completions in the cache do not depend on it; programs are run anew.
        cache_dir (`str` or `Path`, *optional*): defaults to `optimum_flab/evaluation` in the folder of the Hugging
            Face cache (`HF_HOME`).
        output (`str` or `Path`, *optional*): folder to write the results to.
        overwrite (`bool`): whether an evaluation that is there may be replaced.
        trust_remote_code (`bool`): run the Python code that a model's repository brings.
        family (`str` or `Path`, *optional*): a file that describes the family of the models. Defaults to a known
            family.
        revision, baseline_revision (`str`, *optional*): branch, tag or commit of models on the Hub.

    Returns:
        [`Evaluation`]: the scores; `print(evaluation.to_text())` shows the table.

    Raises:
        [`ConfigurationError`]: a task is unknown, a setting out of range, consent is missing, or a package cannot be
            imported in the sandbox.
        [`FlabError`]: data is malformed or cannot be had, a model does not load, lacks a chat template that a task
            needs, or does not fit its tokenizer, or a task runs code outside the sandbox. All of it before weights are
            read, where that is possible.
    """
    if data is not None and not isinstance(data, Mapping):
        raise ConfigurationError(
            f"data {data!r} is not a mapping from tasks to files, such as {{'humaneval': 'x.jsonl'}}"
        )
    names = list(dict.fromkeys(name for given in listed(tasks) for name in map(str.strip, given.split(",")) if name))
    files = {name: listed(given) for name, given in (data or {}).items()}
    check_settings(
        names, files, limit=limit, samples=samples, temperature=temperature, top_p=top_p, batch_size=batch_size,
        max_new_tokens=max_new_tokens, seed=seed, has_baseline=baseline is not None,
    )  # fmt: skip
    packages = named_packages(allow_packages) if allow_packages else ()
    if output is not None:
        OutputFolder(output, EVALUATION, overwrite=overwrite).check()
    device = computation_device(device)
    dtype = None if dtype is None else computation_dtype(dtype)
    loaded = load_tasks(
        [name for name in names if name != DIVERGENCE],
        data=files,
        include_path=include_path,
        limit=limit,
        sampling=Sampling(samples, temperature, top_p),
        max_new_tokens=max_new_tokens,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        allow_packages=packages,
    )
    isolation = None
    if any(getattr(task, "UNSAFE_CODE", False) for named in loaded for task in named.tasks.values()):
        isolation = best_isolation()  # refused now, not after hours of generation
        warn_of(isolation)
        check_packages(packages, isolation)
    texts = divergence_texts(files.get(DIVERGENCE, ()), limit) if DIVERGENCE in names else None

    given = {"model": (model, revision)}
    if baseline is not None:
        given = {"dense": (baseline, baseline_revision), "pruned": (model, revision)}
    sources = {
        role: ModelSource.of(which, at, dtype, device, trust_remote_code, family)
        for role, (which, at) in given.items()
    }
    for source in sources.values():
        check_chat_template(source, loaded)

    if texts is not None:
        kept = kept_tokens(sources["dense"], sources["pruned"])
    cache = BatchCache(Path(cache_dir).expanduser() if cache_dir is not None else cache_root("evaluation"))
    cache.prepare()
    runs: dict[str, list[dict[str, Any]]] = {}
    models: dict[str, dict[str, Any]] = {}
    for role, source in sources.items():
        judged = source.load()
        models[role] = judged.description
        with quiet():
            lm = FlabLM(
                judged.model,
                judged.tokenizer,
                weights_hash=judged.description["weights_sha256"],
                cache=cache,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
        runs[role] = []
        for task in loaded:
            lm.doing = f" ({role}, {task.name})"
            runs[role].append(run_task(lm, task, seed, confirm_run_unsafe_code))
        del lm, judged
        if device.type == "cuda":
            torch.cuda.empty_cache()

    rows = [
        row
        for number, task in enumerate(loaded)
        for row in compare_task(task, {role: results[number] for role, results in runs.items()}, seed)
    ]
    if texts is not None:
        # by default in float32, in which pruning measures it too
        dense, pruned = (replace(sources[role], dtype=dtype or torch.float32) for role in ("dense", "pruned"))
        rows += measure_divergence(dense, pruned, kept, texts, batch_size)
    settings = {
        "tasks": names,
        "data": files,
        "datasets": hub_datasets(file for given in files.values() for file in given),
        "task_datasets": {
            leaf: dataset
            for named in loaded
            for leaf, task in named.tasks.items()
            if (dataset := hub_dataset(task)) is not None
        },
        "limit": limit,
        "samples": samples,
        **({"temperature": temperature, "top_p": top_p} if samples > 1 else {}),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "isolation": None if isolation is None else isolation.name,
        "allow_packages": list(packages),
        **({"divergence_dtype": str(dtype or torch.float32).removeprefix("torch.")} if texts is not None else {}),
    }
    merged = {role: merge_results(results) for role, results in runs.items()}
    found = Evaluation(
        comparisons=rows,
        models=models,
        settings=settings,
        protocols={task.name: task.protocol for task in loaded if task.protocol},
        harness={role: {"model": models[role], **results} for role, (results, _) in merged.items()},
        samples={role: kept for role, (_, kept) in merged.items()},
        reused=cache.reused,
        made=cache.made,
    )
    if output is not None:
        found.save(output, overwrite=overwrite)
    return found


# --- checks --------------------------------------------------------------------------------------------------------


def check_chat_template(source: ModelSource, tasks: Sequence[LoadedTask]) -> None:
    """Raises a [`FlabError`] if a task needs a chat template that the model lacks."""
    for task in tasks:
        if task.chat_template and not source.tokenizer.chat_template:
            plain = task.name.removesuffix("_instruct")
            instead = f"; use the task {plain!r}" if plain != task.name else ""
            raise FlabError(
                f"task {task.name!r} needs a chat template, and the tokenizer of {source.name!r} has none{instead}, or"
                " an instruct model"
            )


# --- models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedModel:
    """A model in memory, and what the results say of it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    description: dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """A model that is not loaded yet, as far as it can be checked without its weights.

    Args:
        name (`str`): what the user called it.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        memory ([`LoadedModel`], *optional*): the model, where it was in memory already.
        files (`ModelFiles`, *optional*): else where they are.
        stored (`torch.dtype`): what the weights are stored in.
        dtype (`torch.dtype`): what to compute in.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    stored: torch.dtype
    dtype: torch.dtype
    device: torch.device
    trust_remote_code: bool = False
    memory: LoadedModel | None = None
    files: ModelFiles | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        revision: str | None,
        dtype: torch.dtype | None,
        device: torch.device,
        trust_remote_code: bool,
        family: str | Path | None = None,
    ) -> ModelSource:
        """Finds a model and reads all but its weights.

        Raises:
            [`FlabError`]: it cannot be found or is refused, or the tokenizer does not fit the embeddings.
        """
        if isinstance(model, (tuple, LoadedModel)):
            memory = dense_from_memory(*model, family) if isinstance(model, tuple) else model
            here = memory.model
            return cls(memory.name, memory.tokenizer, memory.storage_dtype, here.dtype, here.device, memory=memory)
        files = find_model(model, revision, family)
        config = read_model_config(files, trust_remote_code)
        tokenizer, _ = load_tokenizer(files, config, trust_remote_code)
        check_vocabulary(tokenizer, config, files.name)
        check_weights(files, config)
        stored = torch.bfloat16 if files.gguf is not None else stored_dtype(files.folder, config)
        stored = torch.float32 if stored == torch.float64 else stored
        return cls(files.name, tokenizer, stored, dtype or stored, device, trust_remote_code, files=files)

    def load(self) -> JudgedModel:
        """Loads the weights; their hash is that of the checkpoint, whatever they are computed in."""
        dense = self.memory or load_dense(
            self.name,
            revision=self.files.revision,
            trust_remote_code=self.trust_remote_code,
            family=self.files.family,
            device="cpu",
            dtype=self.stored,
        )
        digest = dense_hash(dense)
        model = dense.model
        if self.memory is None and self.dtype != self.stored:
            # a cast would round the buffers that stay in float32
            model = copy_in(dense.model, self.device, self.dtype)
            model.generation_config = dense.model.generation_config
        elif self.memory is None:
            model = model.to(self.device)
        description = {
            "name": dense.name,
            "revision": dense.revision,
            "weights_sha256": digest,
            "config_sha256": config_hash(model),
            "tokenizer_sha256": tokenizer_hash(dense.tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "parameters": model.num_parameters(),
        }
        return JudgedModel(model, dense.tokenizer, dense.family, description)


# --- tasks ---------------------------------------------------------------------------------------------------------


def run_task(lm: FlabLM, task: LoadedTask, seed: int, confirm_run_unsafe_code: bool) -> dict[str, Any]:
    """lm-eval's results of one task. Each task runs alone, so that its batches do not depend on the others named."""
    # it would name the commit of whatever repository the user stands in, and git complain where there is none
    with quiet(), patch.object(lm_eval.evaluator, "get_git_commit_hash", lambda: None):
        return lm_eval.simple_evaluate(
            model=lm,
            tasks=list(task.spec),
            task_manager=TaskManager(include_defaults=False),  # the default one would read all of lm-eval's tasks
            limit=task.limit,
            apply_chat_template=task.chat_template,
            bootstrap_iters=0,
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )


def compare_task(task: LoadedTask, results: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Comparison]:
    """The rows of the table for a task.

    Args:
        results (`Mapping`): lm-eval's results under `"dense"` and `"pruned"`, or under `"model"`.
    """
    judged = "pruned" if "dense" in results else "model"
    for leaf, loaded in task.tasks.items():
        values = {role: values_by_metric(result["samples"][leaf]) for role, result in results.items()}
        higher = loaded.higher_is_better()
        for (metric, filter_name), found in values[judged].items():
            several = sum(name == metric for name, _ in values[judged]) > 1
            label = f"{metric},{filter_name}" if several else metric
            dense = values["dense"].get((metric, filter_name)) if "dense" in values else None
            shared = [number for number in found if dense is None or number in dense]
            statistic = statistic_of(loaded, metric)
            direction = bool(higher.get(metric, True))
            if statistic is None:
                scores = {
                    role: result["results"][leaf].get(f"{metric},{filter_name}", math.nan)
                    for role, result in results.items()
                }
                yield without_interval(leaf, label, direction, len(shared), scores)
                continue
            yield comparison.compare(
                leaf,
                label,
                statistic,
                statistic.rows([found[number] for number in shared]),
                None if dense is None else statistic.rows([dense[number] for number in shared]),
                higher_is_better=direction,
                seed=seed,
            )


def values_by_metric(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[int, Any]]:
    """From lm-eval's samples: `(metric, filter) -> document number -> value`."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            found.setdefault((metric, sample["filter"]), {})[sample["doc_id"]] = sample[metric]
    return found


def statistic_of(task: Any, metric: str) -> OfSums | None:
    """The aggregation of a metric as a function of sums, if it is one."""
    # lm-eval itself takes the mean of a metric that has no aggregation
    aggregation = task.aggregation().get(metric, lm_eval_metrics.mean)
    if isinstance(aggregation, OfSums):
        return aggregation
    for name, statistic in KNOWN_AGGREGATIONS.items():
        if aggregation is getattr(lm_eval_metrics, name):
            return statistic
    return None


def without_interval(
    task: str, metric: str, higher_is_better: bool, problems: int, scores: Mapping[str, Any]
) -> Comparison:
    """A row for a score that is only known as a whole."""
    numbers = {
        role: float(score) if isinstance(score, (int, float, np.number)) else math.nan
        for role, score in scores.items()
    }
    if "dense" not in numbers:
        return Comparison(task, metric, higher_is_better, problems, Score(numbers["model"]))
    dense, pruned = numbers["dense"], numbers["pruned"]
    retention = Score(comparison.retained(pruned, dense))
    return Comparison(task, metric, higher_is_better, problems, Score(pruned), Score(dense), retention)


def merge_results(results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The results of several runs of lm-eval as those of one, and their samples."""
    merged: dict[str, Any] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for key, value in result.items():
            if key == "samples":
                samples |= value
            elif isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged.setdefault(key, value)
    return merged, samples


# --- divergence ----------------------------------------------------------------------------------------------------


def measure_divergence(
    dense: ModelSource, pruned: ModelSource, kept: list[int] | None, texts: Sequence[str], batch_size: int
) -> list[Comparison]:
    """Divergence and bits per byte of both models on texts; holds both in memory."""
    before, after = dense.load(), pruned.load()
    found = measure_held_out(
        before.model,
        before.tokenizer,
        after.model,
        after.tokenizer,
        before.family,
        kept,
        texts,
        DataSettings(batch_size=batch_size),
    )
    bits = {"dense": found.dense_bits_per_byte, "pruned": found.pruned_bits_per_byte}
    return [
        Comparison(DIVERGENCE, "divergence", False, found.texts, Score(found.divergence)),
        without_interval(DIVERGENCE, "bits_per_byte", False, found.texts, bits),
        Comparison(DIVERGENCE, "lost_mass", False, found.texts, Score(found.lost_mass)),
    ]


def kept_tokens(dense: ModelSource, pruned: ModelSource) -> list[int] | None:
    """The dense id of every token of the pruned model: as its plan says, else by the tokens' names.

    Raises:
        [`FlabError`]: the pruned model has tokens that the dense one lacks.
    """
    ids, own = dense.tokenizer.get_vocab(), pruned.tokenizer.get_vocab()
    plan = pruned.files.folder / PLAN_NAME if pruned.files is not None else None
    if plan is not None and plan.is_file():
        kept = PruningPlan.load(plan).kept_tokens
        names = {number: name for name, number in ids.items()}
        at = range(len(own)) if kept is None else kept
        wrong = [name for name, number in own.items() if number >= len(at) or names.get(at[number]) != name]
        if wrong:
            raise FlabError(
                f"task 'divergence': {PLAN_NAME} of {pruned.name!r} was not made from {dense.name!r}: their tokens"
                f" differ ({wrong[0]!r}, for one); name the model that it was pruned from as the baseline"
            )
        return kept
    if own == ids:
        return None
    names = sorted(own, key=own.get)
    if missing := [name for name in names if name not in ids]:
        raise FlabError(
            f"task 'divergence': {pruned.name!r} has no {PLAN_NAME} and {len(missing)} tokens that {dense.name!r}"
            f" lacks ({missing[0]!r}, for one); name the model that it was pruned from as the baseline"
        )
    return [ids[name] for name in names]


# --- writing -------------------------------------------------------------------------------------------------------


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=handle_non_serializable)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(_as_json(value, indent=2) + "\n", encoding="utf-8")


def notes_on_programs(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a score does not say: programs that fail for other reasons than being wrong."""
    notes = []
    verdicts = [list(_verdicts(sample)) for sample in samples]
    unjudged = sum(not all(verdict.get("judged", True) for verdict in of_problem) for of_problem in verdicts)
    if unjudged:
        notes.append(
            f"{unjudged} of {len(samples)} problems have a program that counts as failed because the test wants more"
            " of a value than can cross to it, or may want it; see the samples' details"
        )
    packages = Counter(
        verdict["package"] for of_problem in verdicts for verdict in of_problem if verdict.get("package")
    )
    if packages:
        named = ", ".join(f"{name} ({number})" for name, number in packages.most_common(MOST_NAMED))
        named += ", and others" if len(packages) > MOST_NAMED else ""
        number = packages.total()
        notes.append(
            f"{number} program{'s count' if number > 1 else ' counts'} as failed for want of packages that the sandbox"
            f" does not have: {named}; allow those that are installed here with --allow-packages"
        )
    return notes


def _verdicts(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The verdicts on the programs of a sample; nothing for samples of other tasks."""
    for verdicts in sample.get("filtered_resps") or ():
        for verdict in verdicts if isinstance(verdicts, (list, tuple)) else [verdicts]:
            if isinstance(verdict, Mapping):
                yield verdict


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in task)
