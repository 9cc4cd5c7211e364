"""What is refused within seconds: by the settings, the files that there are, and the headers of models, before lm-eval
and transformers are imported and tokenizers are built, which takes a minute."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.finding import ModelFiles, find_model
from ..execution import check_system
from ..records.json_files import read_json
from ..settings.evaluation import DIVERGENCE, STANDARD, EvaluationSettings, check_evaluation
from ..tensors.gguf_header import read_header
from ..texts.sources import parse_source
from ..utils.errors import DOWNLOAD, ConfigurationError, FlabError
from ..utils.places import HUB_ID, user_path


if TYPE_CHECKING:
    from .harness import Model


TASKS_FOLDER = Path(__file__).parent / "tasks"
TEXT_TASKS = (DIVERGENCE, "perplexity")  # whose data is any source of text
TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.json")
NAMES = re.compile(rb"^(?:task|group|tag): *['\"]?([\w.-]+)", re.MULTILINE)  # of tasks, in lm-eval's YAML


def roles_of(
    model: Model, revision: str | None, baseline: Model | None, baseline_revision: str | None
) -> dict[str, tuple[Model, str | None]]:
    """The models of an evaluation by role, `dense` and `pruned` or only `model`, with their revisions."""
    if baseline is None:
        return {"model": (model, revision)}
    return {"dense": (baseline, baseline_revision), "pruned": (model, revision)}


def check_request(
    settings: EvaluationSettings, names: Mapping[str, tuple[Model, str | None]], confirm_run_unsafe_code: bool
) -> None:
    """Raises what [`~evaluation.harness.evaluate`] does, as far as it can be told in seconds.

    Args:
        names (`Mapping`): the models, see [`roles_of`].
    """
    check_evaluation(settings, has_baseline="dense" in names)
    for name in settings.tasks:
        _check_task(name, settings, confirm_run_unsafe_code)
    # those of the Hub are downloaded once everything else was checked
    check_models(settings, {role: which for role, which in names.items() if not _is_of_hub(which[0])})


def check_models(settings: EvaluationSettings, names: Mapping[str, tuple[Model, str | None]]) -> None:
    """Raises a [`FlabError`] where the files of models say that they cannot be evaluated, or not compared.

    Args:
        names (`Mapping`): the models, see [`roles_of`]; those in memory are not looked at.
    """
    found = {}
    for role, (model, revision) in names.items():
        if isinstance(model, (str, Path)):
            found[role] = files = find_model(model, revision)
            if files.gguf is not None:
                read_header(files.gguf)
            _check_template(files, settings)
    if DIVERGENCE in settings.tasks and len(found) > 1:
        from .vocabularies import check_tokens  # imports torch

        check_tokens(found["dense"], found["pruned"])


def _is_of_hub(model: Model) -> bool:
    return isinstance(model, str) and re.fullmatch(HUB_ID, model) is not None and not user_path(model).exists()


def _check_task(name: str, settings: EvaluationSettings, confirm_run_unsafe_code: bool) -> None:
    """Raises an error where a task is unknown, or lacks consent or a file."""
    definition = shipped_definition(name)
    if definition is None and name not in (DIVERGENCE, STANDARD):
        if settings.include_path is None:
            _check_known(name)
        return
    if name == STANDARD or "unsafe_code: true" in (definition or ""):
        check_system()
        if not confirm_run_unsafe_code:
            raise no_consent(name)
    files = settings.data.get(name, [])
    for file in files if name in TEXT_TASKS or len(files) == 1 else []:  # most tasks take one
        if name in TEXT_TASKS:
            parse_source(file)
        elif not user_path(file).exists():
            raise FlabError(f"task {name!r}: file {file!r} cannot be read (No such file or directory); check its name")


def shipped_definition(name: str) -> str | None:
    """The YAML of a task of this package, with what it includes; `None` where it has no such task."""
    path = TASKS_FOLDER / f"{name}.yaml"
    if name.startswith("_") or path.parent != TASKS_FOLDER or not path.is_file():
        return None
    text = whole = path.read_text(encoding="utf-8")
    while included := re.search(r"^include: (\S+)", text, re.MULTILINE):
        text = path.with_name(included[1]).read_text(encoding="utf-8")
        whole += text
    return whole


def no_consent(name: str) -> ConfigurationError:
    """The refusal of a task that runs programs."""
    return ConfigurationError(
        f"task {name!r} runs code that the model writes, in a sandbox; if you accept that, confirm it"
        " with `confirm_run_unsafe_code`"
    )


def unknown_task(name: str, known: Collection[str], ours: Collection[str]) -> ConfigurationError:
    """The refusal of a task.

    Args:
        known (`Collection[str]`): names of tasks.
        ours (`Collection[str]`): those of this package.
    """
    near = difflib.get_close_matches(name, {*known, *ours}, n=4, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else f"those of this package are {', '.join(sorted(ours))}"
    return ConfigurationError(
        f"unknown task {name!r}; {hint} (a folder with tasks of your own is named with `include_path`)"
    )


def _check_known(name: str) -> None:
    """Raises a [`ConfigurationError`] if no task of lm-eval has a name: no file of its tasks so much as holds it.
    Its own index takes several times as long."""
    spec = find_spec("lm_eval")
    wanted, known = name.encode(), set[bytes]()
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder, "tasks").rglob("*.y*ml"):
            content = path.read_bytes()
            if wanted in content:
                return
            known.update(NAMES.findall(content))
    ours = {DIVERGENCE, STANDARD, *(path.stem for path in TASKS_FOLDER.glob("[!_]*.yaml"))}
    raise unknown_task(name, [one.decode() for one in known], ours)


def _check_template(files: ModelFiles, settings: EvaluationSettings) -> None:
    """Raises a [`FlabError`] where a task needs a chat template, and a model's files hold none."""
    asking = [name for name in settings.tasks if "  chat_template: true" in (shipped_definition(name) or "")]
    if not asking:
        return
    if files.gguf is not None:
        has_one = "tokenizer.chat_template" in read_header(files.gguf).fields
    else:
        stated = (path for path in (files.folder / name for name in TEMPLATE_FILES) if path.is_file())
        has_one = any(read_json(path, DOWNLOAD).get("chat_template") for path in stated)
        has_one |= any(files.folder.rglob("*.jinja"))
    if not has_one:
        raise no_template(asking[0], files.name)


def no_template(task: str, model: Any) -> FlabError:
    """The refusal of a task for a model without a chat template."""
    return FlabError(
        f"task {task!r} needs a chat template, but the tokenizer of {model!r} has none{instead_of(task)}, or an"
        " instruct model"
    )


def instead_of(task: str) -> str:
    """What to ask a model that cannot be asked by its chat template."""
    plain = task.removesuffix("_instruct")
    return f"; use the task {plain!r}" if plain != task else ""
