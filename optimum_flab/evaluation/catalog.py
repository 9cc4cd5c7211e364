"""Names of tasks -> loaded tasks; everything that can be refused is refused before a model is loaded."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager

from ..records.results import HubDataset
from ..settings.evaluation import DIVERGENCE, STANDARD, EvaluationSettings
from ..texts.rows import ROW_SUFFIXES, row_suffix
from ..utils.compat import filters_of, kind_of_task, read_task_file, task_entry
from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import HUB_ID, user_path
from .comparison import counts_of_k
from .tasks.code import Judge


if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry


TASKS_FOLDER = Path(__file__).parent / "tasks"
DIVERGENCE_TEXT = "KL(dense ‖ pruned) and bits per byte of any text; needs a baseline, data from a source of text"
DIVERGENCE_PROTOCOL = "over the remaining vocabulary, both models on the tokens of the pruned one's tokenizer"
LINES = "humaneval_infilling"
# the standard set, for models with a chat template and for others
STANDARD_CHAT = ("humaneval_instruct", "humaneval", LINES, "codeharmony_instruct", "cruxeval_output")
STANDARD_RAW = ("humaneval", LINES, "codeharmony", "cruxeval_output")
STANDARD_TEXT = f"The set by which models are compared: {', '.join(STANDARD_CHAT)}"
STANDARD_PROTOCOL = (
    f"without a chat template {', '.join(STANDARD_RAW)}; CodeHarmony where `data` names a file as codeharmony, lines"
    " where the tokenizer has the tokens for gaps"
)


@dataclass(frozen=True)
class LoadedTask:
    """A task as the user named it.

    Args:
        spec (`list`): what `simple_evaluate` takes: tasks, or a group.
        tasks (`dict[str, Task]`): the tasks that it stands for.
        chat_template (`bool`): whether prompts go through the model's chat template.
        protocol (`str`, *optional*): how it asks, and whether lm-eval's task of its name does so too.
        limit (`int`, *optional*): for lm-eval; `None` where the data is already limited.
    """

    name: str
    spec: list[Task | Group]
    tasks: dict[str, Task]
    chat_template: bool
    protocol: str | None
    limit: int | None


def shipped_tasks() -> dict[str, tuple[str, str | None]]:
    """The names of our own tasks, each with one line on what it is and one on its protocol."""
    tasks: dict[str, tuple[str, str | None]] = {
        DIVERGENCE: (DIVERGENCE_TEXT, DIVERGENCE_PROTOCOL),
        STANDARD: (STANDARD_TEXT, STANDARD_PROTOCOL),
    }
    for path in sorted(TASKS_FOLDER.glob("[!_]*.yaml")):
        config = read_task_file(path, with_functions=False)
        tasks[config["task"]] = (config["metadata"]["description"], _protocol(config))
    return dict(sorted(tasks.items()))


def _protocol(config: Mapping[str, Any]) -> str | None:
    """How a task asks, with the number of tokens that it lets a model write."""
    most = (config.get("generation_kwargs") or {}).get("max_gen_toks")
    protocol = (config.get("metadata") or {}).get("protocol")
    return protocol and protocol.replace("{max_new_tokens}", f"{most}")


def load_tasks(
    settings: EvaluationSettings, *, confirm_run_unsafe_code: bool = False, allow_packages: Sequence[str] = ()
) -> list[LoadedTask]:
    """Loads the tasks of an evaluation and their data, all but `divergence`, which is not a task of lm-eval.

    Names are looked for among our tasks, those of `include_path`, and lm-eval's, in this order.

    Args:
        settings ([`~settings.evaluation.EvaluationSettings`]): names the tasks, their data, and how they are asked.
        allow_packages (`Sequence[str]`): packages that generated programs may import.

    Raises:
        [`ConfigurationError`]: a name is unknown, or consent to run generated code is missing.
        [`FlabError`]: the data of a task is missing or malformed, or a task would run code outside the sandbox.
    """
    names, samples = [name for name in settings.tasks if name != DIVERGENCE], settings.samples
    manager = _manager(names, settings.include_path)
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        raise ConfigurationError(_unknown_task_text(unknown[0], manager))
    for name in names:
        for leaf, entry in _leaves(name, manager):
            _refuse_outside_sandbox(leaf, entry)
            if _is_unsafe(entry) and not confirm_run_unsafe_code:
                raise ConfigurationError(
                    f"task {leaf!r} runs code that the model writes, in a sandbox; if you accept that, confirm it with"
                    " `confirm_run_unsafe_code`"
                )
    loaded = [_load(name, manager, settings) for name in names]
    repeats = [task.config.repeats for named in loaded for task in named.tasks.values()]
    if samples > 1 and names and samples not in repeats:
        raise ConfigurationError(
            f"samples: {samples}, but none of {', '.join(names)} samples programs; leave it out, or name a code"
            " generation task"
        )
    if allow_packages and not sum(_allow(task, allow_packages) for named in loaded for task in named.tasks.values()):
        raise ConfigurationError(
            f"allow_packages: {','.join(allow_packages)}, but none of {', '.join(names)} runs programs; leave it out"
        )
    return loaded


def _manager(names: Sequence[str], include_path: str | Path | None) -> TaskManager:
    folders = [TASKS_FOLDER]
    if include_path is not None:
        folder = user_path(include_path)
        _check_folder(folder)
        folders.insert(0, folder)
    with quiet():
        manager = TaskManager(include_path=folders, include_defaults=False)
        if all(name in manager.task_index for name in names):
            return manager
        return TaskManager(include_path=folders)  # reads thousands of files, which takes seconds


def _check_folder(folder: Path) -> None:
    """Refuses what lm-eval would silently ignore: YAML that does not parse, and names that are ours."""
    if not folder.is_dir():
        raise ConfigurationError(f"include_path: {str(folder)!r} is not a folder; name the one with your task's YAML")
    ours = shipped_tasks()
    for path in sorted(folder.glob("**/*.yaml")):
        try:
            config = read_task_file(path, with_functions=False)
        except Exception as error:  # a YAML error, a missing include, a file that is not a mapping
            reason = " ".join(str(error).split())
            raise FlabError(f"task file {str(path)!r} cannot be read ({reason})") from error
        if isinstance(config.get("task"), str) and config["task"] in ours:
            raise ConfigurationError(
                f"task file {str(path)!r} names its task {config['task']!r}, which is a task of this package; give it"
                " another name"
            )


def _unknown_task_text(name: str, manager: TaskManager) -> str:
    known = {*manager.all_tasks, *shipped_tasks()}
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else f"those of this package are {', '.join(shipped_tasks())}"
    return f"unknown task {name!r}; {hint} (a folder with tasks of your own is named with `include_path`)"


def _leaves(name: str, manager: TaskManager) -> Iterator[tuple[str, Entry]]:
    """The single tasks that a name, perhaps of a group or a tag, stands for."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    if kind_of_task(entry) == "tag":
        children: list[Any] = sorted(entry.tags)
    elif kind_of_task(entry) == "group":
        listed = read_task_file(entry.yaml_path, with_functions=False).get("task") or []
        children = listed if isinstance(listed, list) else [listed]
    else:
        yield name, entry
        return
    for child in children:
        inner = child if isinstance(child, str) else child.get("task") or child.get("group")
        if isinstance(inner, str) and inner in manager.task_index and inner != name:
            yield from _leaves(inner, manager)
        elif isinstance(child, dict):
            yield str(inner), task_entry(str(inner), entry.yaml_path, child)


# --- code that runs ------------------------------------------------------------------------------------------------


def _config(entry: Entry) -> dict[str, Any]:
    return read_task_file(entry.yaml_path, with_functions=False) if entry.yaml_path else dict(entry.cfg or {})


def _is_unsafe(entry: Entry) -> bool:
    config = _config(entry)
    return bool(config.get("unsafe_code")) or _runs_in_sandbox(config, entry)


def _runs_in_sandbox(config: Mapping[str, Any], entry: Entry) -> bool:
    filters = [function for item in config.get("filter_list") or [] for function in item.get("filter") or []]
    references = (_reference(function.get("filter_fn"), entry) for function in filters)
    ours = tuple(f"{__package__}.tasks.{module}." for module in ("code", "mbpp", "infilling"))
    return any(reference is not None and reference.startswith(ours) for reference in references)


def _reference(value: Any, entry: Entry) -> str | None:
    """`module.function` of an unresolved `!function`, which lm-eval gives as a path in the folder of its YAML."""
    folder = entry.yaml_path.parent.resolve() if entry.yaml_path else None
    if not isinstance(value, str) or folder is None or not Path(value).is_absolute():
        return None
    return Path(value).name


def _allow(task: Task, packages: Sequence[str]) -> bool:
    """Lets the programs of a task import packages; false where it runs none."""
    runs_programs = False
    for ensemble in filters_of(task):
        for place, step in enumerate(ensemble.filters):
            judge = getattr(step, "keywords", {}).get("filter_fn")
            if isinstance(judge, Judge):
                # lm-eval builds a filter from its keywords each time it applies it
                ensemble.filters[place] = partial(step, filter_fn=replace(judge, allow_packages=tuple(packages)))
                runs_programs = True
    return runs_programs


def _refuse_outside_sandbox(name: str, entry: Entry) -> None:
    """Refuses a task that runs generated code other than in the sandbox of this package."""
    if entry.yaml_path is not None and entry.yaml_path.is_relative_to(TASKS_FOLDER):
        return
    config = _config(entry)
    if _runs_in_sandbox(config, entry):
        if not config.get("unsafe_code"):
            raise FlabError(f"task {name!r} runs programs: add 'unsafe_code: true' to {entry.yaml_path}")
        scored = _reference(config.get("process_results"), entry) or ""
        if not scored.startswith(f"{__package__}.tasks."):
            raise FlabError(
                f"task {name!r} runs programs but does not score their verdicts: add 'process_results: !function"
                f" {__package__}.tasks.code.score' and the metric pass@1 to {entry.yaml_path}"
            )
    elif config.get("unsafe_code"):
        near = difflib.get_close_matches(name, shipped_tasks(), n=1, cutoff=0.4)
        instead = f"use {near[0]}, or " if near else ""
        raise FlabError(
            f"task {name!r} runs code outside the sandbox of this package, so it is refused; {instead}write a task"
            f" whose filter is one of {__package__}.tasks.code (with unsafe_code: true)"
        )


# --- loading -------------------------------------------------------------------------------------------------------


def _load(name: str, manager: TaskManager, settings: EvaluationSettings) -> LoadedTask:
    files = settings.data.get(name, [])
    entry = manager.task_index[name]
    single = kind_of_task(entry) == "task"
    if files and not single:
        raise ConfigurationError(
            f"data: {name!r} (of {files[0]!r}) is not a single task; set data for each of its tasks"
        )
    with quiet():
        try:
            if single:
                config = read_task_file(entry.yaml_path, with_functions=True)
                own = _is_own_loader(config.get("custom_dataset"))
                task = ConfigurableTask(config=_task_config(name, config, entry, settings))
                spec, tasks = [task], {name: task}
                chat_template = bool((config.get("metadata") or {}).get("chat_template"))
                protocol = _protocol({**config, "generation_kwargs": task.config.generation_kwargs})
            else:
                loaded = manager.load([name])
                own, chat_template, protocol, tasks = False, False, None, loaded["tasks"]
                spec = [loaded["groups"][name]] if name in loaded.get("groups", {}) else list(tasks.values())
        except FlabError:
            raise
        except Exception as error:  # lm-eval, datasets and the functions of a YAML fail in many ways
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            offline = isinstance(error, (ConnectionError, FileNotFoundError)) or "Hub" in reason
            remedy = "; name a local file for it in `data`" if offline and single and not files else ""
            raise FlabError(f"task {name!r} cannot be loaded ({type(error).__name__}: {reason}){remedy}") from error
    for leaf, task in tasks.items():
        if not len(task.eval_docs):
            raise FlabError(f"task {leaf!r} has no problems; check its data")
    return LoadedTask(name, spec, tasks, chat_template, protocol, None if own else settings.limit)


def _is_own_loader(function: Any) -> bool:
    return callable(function) and function.__module__.startswith(f"{__package__}.")


def _task_config(name: str, config: Mapping[str, Any], entry: Entry, settings: EvaluationSettings) -> dict[str, Any]:
    """The configuration of a single task with the user's data, limit, sampling and length applied."""
    files = settings.data.get(name, [])
    prepared = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list")}
    metadata = prepared.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, Mapping) else {"_metadata": metadata} if metadata else {}
    prepared["metadata"] = {**metadata, "config_source": str(entry.yaml_path)}
    options = dict(prepared.get("dataset_kwargs") or {})
    if _is_own_loader(prepared.get("custom_dataset")):
        options |= {"task": name, "limit": settings.limit}
        if files:
            options["file"] = _one_or_all(name, files, bool(metadata.get("several_files")))
    elif files:
        if prepared.get("custom_dataset") is not None or "class" in prepared:
            raise FlabError(f"data: task {name!r} builds its own data, so no file can replace it ({files[0]!r})")
        split = prepared.get("test_split") or prepared.get("validation_split")
        prepared |= {"dataset_path": _builder(files[0]), "dataset_name": None}
        options = {"data_files": {split: [str(user_path(file)) for file in files]}}
    elif entry.yaml_path is not None and "data_files" in options:
        options["data_files"] = _beside(options["data_files"], entry.yaml_path.parent)
    if options:
        prepared["dataset_kwargs"] = options
    if settings.max_new_tokens is not None and prepared.get("generation_kwargs"):
        prepared["generation_kwargs"] = {**prepared["generation_kwargs"], "max_gen_toks": settings.max_new_tokens}
    if settings.samples > 1 and metadata.get("sampling"):
        prepared["repeats"] = settings.samples
        prepared["generation_kwargs"] = {
            **prepared["generation_kwargs"],
            "do_sample": True,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        prepared["metric_list"] = [
            {"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True}
            for k in counts_of_k(settings.samples)
        ]
    return prepared


def _one_or_all(name: str, files: Sequence[str], several: bool) -> str | list[str]:
    if len(files) == 1:
        return files[0]
    if not several:
        raise ConfigurationError(f"data: {len(files)} files were given for task {name!r}, which takes one")
    return list(files)


def _builder(file: str) -> str:
    """The loader of `datasets` for a file."""
    suffix = row_suffix(Path(file))
    if suffix is None:
        raise FlabError(f"data file {file!r} has no known format; expected one of {', '.join(ROW_SUFFIXES)}")
    return suffix[1:] if suffix in (".csv", ".parquet") else "json"


def _beside(files: Any, folder: Path) -> Any:
    """Relative data files, or patterns of them, as paths next to the YAML, unless they are only in the current folder;
    addresses as they are."""
    if isinstance(files, Mapping):
        return {split: _beside(inner, folder) for split, inner in files.items()}
    if isinstance(files, (list, tuple)):
        return [_beside(inner, folder) for inner in files]
    if not isinstance(files, str):
        return files
    path = str(folder / files)
    return files if "://" in files or (glob(files) and not glob(path)) else path


def hub_dataset(task: Task) -> HubDataset | None:
    """The dataset on the Hub that a task's problems come from; `None` where they are from a file, or generated."""
    config = task.config
    options = config.dataset_kwargs or {}
    if options.get("file") or options.get("data_files"):
        return None
    if config.custom_dataset is not None:
        source = {"id": options.get("hub"), "config": options.get("name"), "split": options.get("split")}
    else:
        source = {"id": config.dataset_path, "config": config.dataset_name, "split": config.test_split}
    if not isinstance(source["id"], str) or not HUB_ID.fullmatch(source["id"]) or Path(source["id"]).exists():
        return None
    return HubDataset(**{name: value for name, value in source.items() if isinstance(value, str)})


@contextmanager
def quiet() -> Iterator[None]:
    """Silences lm-eval's remarks on our configurations while the block runs."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
