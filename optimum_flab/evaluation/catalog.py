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
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from ..records.results import HubDataset
from ..settings.evaluation import DIVERGENCE, STANDARD, EvaluationSettings
from ..utils.compat import build_task, filters_of, read_task_file
from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import HUB_ID, user_path
from .comparison import counts_of_k
from .data import known_suffix
from .first_checks import TASKS_FOLDER, no_consent, unknown_task
from .tasks.code import Judge


# what the names of functions that run and score programs in the sandbox begin with
OURS = f"{__package__}."
SANDBOXED = tuple(f"{OURS}tasks.{module}." for module in ("code", "mbpp", "infilling"))
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
        built (`list`): what `simple_evaluate` takes: tasks, or a group.
        tasks (`dict[str, Task]`): the tasks that it stands for.
        chat_template (`bool`): whether prompts go through the model's chat template.
        protocol (`str`, *optional*): how it asks, and whether lm-eval's task of its name does so too.
        limit (`int`, *optional*): for lm-eval; `None` where the data is already limited.
    """

    name: str
    built: list[Task | Group]
    tasks: dict[str, Task]
    chat_template: bool
    protocol: str | None
    limit: int | None


@dataclass(frozen=True)
class Definition:
    """A single task as a YAML defines it.

    Args:
        config (`Mapping`): its configuration, with the paths of functions in place of them.
        path (`Path`, *optional*): the YAML.
    """

    name: str
    config: Mapping[str, Any]
    path: Path | None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What it says of itself."""
        metadata = self.config.get("metadata")
        return metadata if isinstance(metadata, Mapping) else {}

    @property
    def has_our_data(self) -> bool:
        """Whether its data is loaded by this package."""
        return function_name(self.config.get("custom_dataset")).startswith(OURS)

    def protocol(self, generation: Mapping[str, Any] | None = None) -> str | None:
        """How it asks, with the number of tokens that it lets a model write."""
        most = (generation or self.config.get("generation_kwargs") or {}).get("max_gen_toks")
        protocol = self.metadata.get("protocol")
        return protocol and protocol.replace("{max_new_tokens}", f"{most}")


def function_name(value: Any) -> str:
    """`module.function` of an `!function`, which lm-eval gives as a path in the folder of its YAML."""
    return Path(value).name if isinstance(value, str) else ""


def shipped_tasks() -> dict[str, tuple[str, str | None]]:
    """The names of our own tasks, each with one line on what it is and one on its protocol."""
    tasks: dict[str, tuple[str, str | None]] = {
        DIVERGENCE: (DIVERGENCE_TEXT, DIVERGENCE_PROTOCOL),
        STANDARD: (STANDARD_TEXT, STANDARD_PROTOCOL),
    }
    for path in TASKS_FOLDER.glob("[!_]*.yaml"):
        task = Definition(path.stem, read_task_file(path), path)
        tasks[path.stem] = (task.metadata["description"], task.protocol())
    return dict(sorted(tasks.items()))


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
    names = [name for name in settings.tasks if name != DIVERGENCE]
    manager = _manager(names, settings.include_path)
    for task in (task for name in names for task in _definitions(name, manager)):
        if _runs_programs(task) and not confirm_run_unsafe_code:
            raise no_consent(task.name)
    loaded = [_load(name, manager, settings) for name in names]
    tasks = [task for named in loaded for task in named.tasks.values()]
    if settings.samples > 1 and names and settings.samples not in [task.config.repeats for task in tasks]:
        raise ConfigurationError(
            f"samples: {settings.samples}, but none of {', '.join(names)} samples programs; leave it out, or name a"
            " code generation task"
        )
    if allow_packages and not sum(_allow(task, allow_packages) for task in tasks):
        raise ConfigurationError(
            f"allow_packages: {','.join(allow_packages)}, but none of {', '.join(names)} runs programs; leave it out"
        )
    return loaded


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """An index that has all names, of which lm-eval's own tasks are a part only where they are needed."""
    folders = [TASKS_FOLDER]
    if include_path is not None:
        folders.insert(0, user_path(include_path))
        _check_folder(folders[0])
    with quiet():
        manager = TaskManager(include_path=folders, include_defaults=False)
        if not all(name in manager.task_index for name in names):
            manager = TaskManager(include_path=folders)  # reads thousands of files, which takes seconds
    if unknown := [name for name in names if name not in manager.task_index]:
        raise unknown_task(unknown[0], manager.all_tasks, shipped_tasks())
    return manager


def _check_folder(folder: Path) -> None:
    """Refuses what lm-eval would silently ignore: YAML that does not parse, and names that are ours."""
    if not folder.is_dir():
        raise ConfigurationError(f"include_path: {str(folder)!r} is not a folder; name the one with your task's YAML")
    ours = shipped_tasks()
    for path in sorted(folder.glob("**/*.yaml")):
        try:
            name = read_task_file(path).get("task")
        except Exception as error:  # a YAML error, a missing include, a file that is not a mapping
            reason = " ".join(str(error).split())
            raise FlabError(f"task file {str(path)!r} cannot be read ({reason})") from error
        if isinstance(name, str) and name in ours:
            raise ConfigurationError(
                f"task file {str(path)!r} names its task {name!r}, which is a task of this package; give it another"
                " name"
            )


def _definitions(
    item: Any, manager: TaskManager, path: Path | None = None, around: tuple[str, ...] = ()
) -> Iterator[Definition]:
    """The single tasks that a name, perhaps of a group or a tag, stands for, or an item of a group at a path."""
    changes = item if isinstance(item, Mapping) else {}
    name = str(changes.get("group") or changes.get("task") or item)
    entry = manager.task_index.get(name)
    config = changes
    if entry is not None:
        path = entry.yaml_path or path
        config = entry.cfg
    if config is not None and "group" not in config:
        yield Definition(name, {**config, **changes}, path)
        return
    if name in around:
        raise FlabError(f"task group {name!r} is among its own tasks ({path}); list others there")
    listed = sorted(entry.tags) if config is None else config.get("task")
    for child in listed if isinstance(listed, list) else []:
        yield from _definitions(child, manager, path, (*around, name))


def _runs_programs(task: Definition) -> bool:
    """Whether a task runs what a model writes.

    Raises:
        [`FlabError`]: it would do so outside the sandbox, without asking for consent, or without scoring the verdicts.
    """
    is_marked = bool(task.config.get("unsafe_code"))
    steps = [step for item in task.config.get("filter_list") or [] for step in item.get("filter") or []]
    if not any(function_name(step.get("filter_fn")).startswith(SANDBOXED) for step in steps):
        if is_marked:
            near = difflib.get_close_matches(task.name, shipped_tasks(), n=1, cutoff=0.4)
            instead = f"use {near[0]}, or " if near else ""
            raise FlabError(
                f"task {task.name!r} runs code outside the sandbox of this package, so it is refused; {instead}write a"
                f" task whose filter is one of {OURS}tasks.code (with unsafe_code: true)"
            )
        return False
    if not is_marked:
        raise FlabError(f"task {task.name!r} runs programs: add 'unsafe_code: true' to {task.path}")
    if not function_name(task.config.get("process_results")).startswith(f"{OURS}tasks."):
        raise FlabError(
            f"task {task.name!r} runs programs but does not score their verdicts: add 'process_results: !function"
            f" {OURS}tasks.code.score' and the metric pass@1 to {task.path}"
        )
    return True


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


# --- loading -------------------------------------------------------------------------------------------------------


def _load(name: str, manager: TaskManager, settings: EvaluationSettings) -> LoadedTask:
    entry = manager.task_index[name]
    files = settings.data.get(name, [])
    single = None
    if entry.cfg is not None and not {"group", "class"} & entry.cfg.keys():
        single = Definition(name, entry.cfg, entry.yaml_path)
    elif files:
        raise ConfigurationError(
            f"data: {name!r} (of {files[0]!r}) is not a single task; set data for each of its tasks"
        )
    try:
        with quiet():
            built = build_task(manager, name, {} if single is None else _changes(single, settings))
    except FlabError:
        raise
    except Exception as error:  # lm-eval, datasets and the functions of a YAML fail in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        offline = isinstance(error, (ConnectionError, FileNotFoundError)) or "Hub" in reason
        remedy = "; name a local file for it in `data`" if offline and single and not files else ""
        raise FlabError(f"task {name!r} cannot be loaded ({type(error).__name__}: {reason}){remedy}") from error
    leaves = built.get_all_tasks() if isinstance(built, Group) else built if isinstance(built, list) else [built]
    tasks = {task.task_name: task for task in leaves}
    for leaf, task in tasks.items():
        if not len(task.eval_docs):
            raise FlabError(f"task {leaf!r} has no problems; check its data")
    return LoadedTask(
        name,
        built if isinstance(built, list) else [built],
        tasks,
        chat_template=single is not None and bool(single.metadata.get("chat_template")),
        protocol=None if single is None else single.protocol(tasks[name].config.generation_kwargs),
        limit=None if single is not None and single.has_our_data else settings.limit,
    )


def _changes(task: Definition, settings: EvaluationSettings) -> dict[str, Any]:
    """What the user's data, limit, sampling and length change in the configuration of a single task."""
    changes = _changes_of_data(task, settings.data.get(task.name, []), settings.limit)
    generation = dict(task.config.get("generation_kwargs") or {})
    if generation and settings.max_new_tokens is not None:
        generation["max_gen_toks"] = settings.max_new_tokens
    if settings.samples > 1 and task.metadata.get("sampling"):
        generation |= {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        changes["repeats"] = settings.samples
        changes["metric_list"] = [
            {"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True}
            for k in counts_of_k(settings.samples)
        ]
    return {**changes, "generation_kwargs": generation} if generation else changes


def _changes_of_data(task: Definition, files: Sequence[str], limit: int | None) -> dict[str, Any]:
    config = task.config
    options = dict(config.get("dataset_kwargs") or {})
    if task.has_our_data:
        if len(files) > 1 and not task.metadata.get("several_files"):
            raise ConfigurationError(f"data: {len(files)} files were given for task {task.name!r}, which takes one")
        named = {"file": files if len(files) > 1 else files[0]} if files else {}
        return {"dataset_kwargs": {**options, "task": task.name, "limit": limit, **named}}
    if files:
        if config.get("custom_dataset") is not None:
            raise FlabError(f"data: task {task.name!r} builds its own data, so no file can replace it ({files[0]!r})")
        suffix = known_suffix(Path(files[0]))
        split = config.get("test_split") or config.get("validation_split")
        return {
            "dataset_path": suffix[1:] if suffix in (".csv", ".parquet") else "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: [str(user_path(file)) for file in files]}},
        }
    if task.path is not None and "data_files" in options:
        return {"dataset_kwargs": {**options, "data_files": _beside(options["data_files"], task.path.parent)}}
    return {}


def _beside(files: Any, folder: Path) -> Any:
    """Relative data files, or patterns of them, as paths next to the YAML, unless they are only in the current folder;
    addresses as they are."""
    if isinstance(files, Mapping):
        return {split: _beside(inner, folder) for split, inner in files.items()}
    if isinstance(files, (list, tuple)):
        return [_beside(inner, folder) for inner in files]
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
    named = {name: value for name, value in source.items() if isinstance(value, str)}
    if not HUB_ID.fullmatch(named.get("id", "")) or Path(named["id"]).exists():
        return None
    return HubDataset(**named)


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
