"""What the files of a pruned model say, as plain values: report, settings, and the results that belong to it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import ConfigurationError, FlabError
from ..licenses import is_license_file
from ..recovery.curve import CURVE_NAME


REPORT_NAME = "flab_report.json"
PLAN_NAME = "flab_plan.json"
FAMILY_NAME = "flab_family.json"
CONFIG_NAME = "flab_config.json"
EVALUATION_NAME = "flab_evaluation.json"
EFFICIENCY_NAME = "flab_efficiency.json"
EFFICIENCY_PLOT, EVALUATION_TABLE = "flab_efficiency.png", "flab_evaluation.txt"
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# `flab_evaluation.json`, or the copies of several: `flab_evaluation-2.json`
RESULT_NAMES = {
    name: re.compile(re.escape(name[:-5]) + r"(-\d+)?\.json") for name in (EVALUATION_NAME, EFFICIENCY_NAME)
}
# at least one folder and something in it, so that a token such as `//` or `/*` is none
LOCAL_PATH = re.compile(r"(?:/|~[^/\\]*[/\\]|[A-Za-z]:[/\\]|\\\\)[^/\\]+[/\\].*|~[/\\].+", re.DOTALL)
BRACKETS = re.compile(r"(?P<path>.*?)(?P<columns>\[[^\[\]]*\])?", re.DOTALL)
# what stands behind the path of an address, up to columns
ADDRESS_END = re.compile(r"^([A-Za-z][\w+.-]*://[^?#]*)[?#].*?(\[[^\[\]]*\])?$", re.DOTALL)
# under these names, in settings and results, stand sources of text; under those, models
SOURCE_KEYS = frozenset({"data", "text", "corpus", "calibration", "held_out", "exclude"})
MODEL_KEYS = frozenset({"base_model", "models"})


@dataclass(frozen=True)
class Results:
    """Results of this checkpoint.

    Args:
        evaluations (`tuple[dict, ...]`): contents of `flab_evaluation.json` files.
        efficiency (`dict`, *optional*): content of `flab_efficiency.json`.
        files (`tuple[Path, ...]`): where they were read.
        left_out (`tuple[str, ...]`): a sentence for each file that was not used.
    """

    evaluations: tuple[dict[str, Any], ...] = ()
    efficiency: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Everything a card states.

    Args:
        report (`dict`): `flab_report.json`; empty where there is none.
        settings (`dict`, *optional*): the configuration that was asked for, or that made the plan.
        corpus_hash (`str`, *optional*): of the texts that decided the vocabulary.
        results ([`Results`]): evaluations and efficiency of this checkpoint.
        license_files (`tuple[str, ...]`): licences and notices in the folder.
        loss_curve (`str`, *optional*): the picture of the training's losses, where it was trained and there is one.
        architecture (`str`, *optional*): the class that loads the weights.
        chat_template (`bool`): whether the tokenizer has one.
        transformers (`str`, *optional*): the oldest release that reads the checkpoint as the model that was measured.
    """

    report: dict[str, Any]
    settings: dict[str, Any] | None
    corpus_hash: str | None
    results: Results
    license_files: tuple[str, ...]
    loss_curve: str | None = None
    architecture: str | None = None
    chat_template: bool = False
    transformers: str | None = None

    @property
    def recovery(self) -> Mapping[str, Any] | None:
        """What the report says of the training after pruning; `None` where there was none."""
        section = at(self.report, "recovery")
        return section if isinstance(section, Mapping) else None

    @property
    def datasets(self) -> frozenset[str]:
        """The Hub datasets that were read to prune and to train."""
        return recorded_datasets(self.report)


def read_facts(folder: Path, results: Sequence[str | Path] | None = None) -> Facts:
    """Reads the files of a pruned model.

    Args:
        results (`Sequence[str | Path]`, *optional*): folders (or files) with results; `None`: those in `folder`.

    Raises:
        [`FlabError`]: a file cannot be read, or is not what its name says.
        [`ConfigurationError`]: one of `results` holds none, or two hold the same score.
    """
    from ..checkpoints.saving import needed_transformers

    report = read_json(folder / REPORT_NAME) if (folder / REPORT_NAME).exists() else {}
    plan = read_json(folder / PLAN_NAME) if (folder / PLAN_NAME).exists() else {}
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else plan.get("settings")
    paths = result_files([folder], below=False) if results is None else result_files(results)
    corpus_hash = plan.get("corpus_hash")
    return Facts(
        report=report,
        settings=config if isinstance(config, dict) else None,
        corpus_hash=corpus_hash if isinstance(corpus_hash, str) else None,
        results=own_results(paths, report, weight_bytes(folder)),
        license_files=tuple(
            sorted(path.name for path in folder.glob("*") if is_license_file(path.name) and path.is_file())
        ),
        loss_curve=CURVE_NAME if at(report, "recovery") and (folder / CURVE_NAME).is_file() else None,
        architecture=architecture_of(folder),
        chat_template=has_chat_template(folder),
        transformers=needed_transformers(folder),
    )


def architecture_of(folder: Path) -> str | None:
    """The class that `config.json` names; `None` where it names none."""
    path = folder / "config.json"
    named = at(read_json(path), "architectures") if path.exists() else None
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder can write down a chat."""
    path = folder / "tokenizer_config.json"
    inside = at(read_json(path), "chat_template") if path.exists() else None
    return bool(inside) or any((folder / name).is_file() for name in CHAT_TEMPLATE_FILES)


def is_result(name: str) -> bool:
    """Whether a file of this name holds an evaluation or efficiency."""
    return any(pattern.fullmatch(name) for pattern in RESULT_NAMES.values())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        [`FlabError`]: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlabError(f"{str(path)!r} cannot be read ({error}); make it again, or restore the file") from error
    if not isinstance(content, dict):
        raise FlabError(f"{str(path)!r} is not a JSON object; make it again, or restore the file")
    return content


def at(values: Any, *path: str | int) -> Any:
    """The value at a path into nested objects; `None` where the path leads nowhere."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def number_at(values: Any, *path: str | int) -> int | float | None:
    """The finite number at a path; `None` where there is none."""
    value = at(values, *path)
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number: neither YAML nor the Hub's model-index takes a NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights are read from, sorted; they need not exist.

    Raises:
        [`ConfigurationError`]: the index does not list files of this folder.
    """
    index = folder / WEIGHTS_INDEX
    if not index.exists():
        return [folder / WEIGHTS]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if outside := [name for name in names if PureWindowsPath(name).name != name]:
            raise ValueError(f"{outside[0]!r} is not a name in the same folder")
        return sorted(folder / name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{str(index)!r} is not a list of weight files: {error!r}; prune again") from error


def weight_bytes(folder: Path) -> int:
    """Size of the weight files that are there."""
    return sum(path.stat().st_size for path in weight_files(folder) if path.is_file())


def result_files(places: Iterable[str | Path], below: bool = True) -> list[Path]:
    """Files with evaluations and efficiency in folders, sorted within each.

    Args:
        below (`bool`): look into their folders too, and refuse a place that holds none.
    """
    found = []
    for place in map(Path, places):
        if not place.exists():
            raise ConfigurationError(
                f"results {str(place)!r} do not exist; name what `optimum-cli flab eval` or `flab bench` wrote"
            )
        files = [place] if place.is_file() else sorted(place.rglob("*") if below else place.glob("*"), key=_in_order)
        own = [path for path in files if path.is_file() and is_result(path.name)]
        if below and not own:
            raise ConfigurationError(
                f"results {str(place)!r} hold neither {EVALUATION_NAME} nor {EFFICIENCY_NAME}; name what"
                " `optimum-cli flab eval` or `flab bench` wrote"
            )
        found += own
    return list(dict.fromkeys(found))


def _in_order(path: Path) -> tuple[str, int, str]:
    """Sorts `flab_evaluation.json` before its `-2`, and that before its `-10`."""
    number = re.search(r"-(\d+)\.json$", path.name)
    return str(path.parent), int(number[1]) if number else 0, path.name


def own_results(paths: Sequence[Path], report: Mapping[str, Any], size: int) -> Results:
    """Those results that belong to a checkpoint.

    An evaluation names the hash of the weights it is of. Efficiency depends on sizes, not on the values of weights: it
    must agree in parameters and bytes, and in the hash where it has one.

    Args:
        report (`Mapping`): `flab_report.json` of the checkpoint.
        size (`int`): bytes of its weight files.

    Raises:
        [`FlabError`]: a file is not what its name says.
        [`ConfigurationError`]: two files hold the same score, or there are two of efficiency.
    """
    weights = at(report, "weights_sha256")
    evaluations, efficiency, files, left_out = [], None, [], []
    scores: dict[tuple[str, str], Path] = {}
    for path in paths:
        content = read_json(path)
        judged = at(content, "models", "pruned") or at(content, "models", "model")
        if not isinstance(judged, Mapping):
            raise FlabError(f"{str(path)!r} does not say which model it is of; evaluate again")
        of = at(judged, "weights_sha256")
        if RESULT_NAMES[EVALUATION_NAME].fullmatch(path.name):
            if not isinstance(at(content, "scores"), list):
                raise FlabError(f"{str(path)!r} holds no scores; evaluate again")
            if weights is None or of != weights:
                left_out.append(
                    f"{path.name} is an evaluation of other weights (SHA-256 {str(of)[:12]}…) and is left out"
                )
                continue
            for row in filter(_is_score, content["scores"]):
                if other := scores.get((row["task"], row["metric"])):
                    raise ConfigurationError(
                        f"{row['metric']} of {row['task']} is in both {str(other)!r} and {str(path)!r}; name one of"
                        " them with `results`"
                    )
            scores |= {(row["task"], row["metric"]): path for row in filter(_is_score, content["scores"])}
            evaluations.append(content)
        else:
            same = of == weights if of is not None else at(judged, "parameters") == at(report, "pruned", "parameters")
            if not same or at(judged, "checkpoint_bytes") != size:
                left_out.append(f"{path.name} measures a checkpoint of another size and is left out")
                continue
            if efficiency is not None:
                raise ConfigurationError(
                    f"{str(path)!r} is a second {EFFICIENCY_NAME}; name one of them with `results`"
                )
            efficiency = content
        files.append(path)
    return Results(tuple(evaluations), efficiency, tuple(files), tuple(left_out))


def _is_score(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("task"), str) and isinstance(row.get("metric"), str)


def score_rows(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of an evaluation's table that name a task and a metric."""
    return [row for row in evaluation["scores"] if _is_score(row)]


def task_dataset(evaluation: Mapping[str, Any], task: str) -> dict[str, str] | None:
    """The dataset on the Hub that a task's problems are those of: `id`, perhaps `config` and `split`."""
    found = at(evaluation, "settings", "task_datasets", task)
    if not isinstance(at(found, "id"), str):
        return None
    return {name: value for name, value in found.items() if isinstance(value, str)}


def against_dense(evaluation: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether an evaluation compares with the very model that was pruned."""
    dense = at(evaluation, "models", "dense", "weights_sha256")
    return dense is not None and dense == at(report, "base_model", "weights_sha256")


# --- paths of the machine ------------------------------------------------------------------------------------------


def file_name(text: str) -> str:
    """A text that has the form of an absolute path as the name of the file, columns kept; any other text as it is.

    `/data/valid.jsonl[prompt,answer]` becomes `valid.jsonl[prompt,answer]`.
    """
    if "\n" in text or not LOCAL_PATH.fullmatch(BRACKETS.fullmatch(text)["path"]):
        return text
    return last_name(text)


def last_name(path: str) -> str:
    """The name of the file that a path or an address leads to, columns kept, without a query: some hold passwords."""
    match = BRACKETS.fullmatch(ADDRESS_END.sub(r"\1\2", path))
    return (PureWindowsPath(match["path"].rstrip("/\\")).name or match["path"]) + (match["columns"] or "")


def recorded_datasets(record: Mapping[str, Any]) -> frozenset[str]:
    """The ids of the Hub datasets that a run really read, as its report or evaluation lists them."""
    listed = at(record, "datasets"), at(record, "recovery", "datasets"), at(record, "settings", "datasets")
    return frozenset(name for names in listed if isinstance(names, list) for name in names if isinstance(name, str))


def dataset_of(source: str, datasets: Collection[str]) -> str | None:
    """The Hub dataset that a source of text names; `None` for a file, a folder or the standard library.

    Args:
        datasets (`Collection[str]`): those that were read, see [`recorded_datasets`]; a folder may be called `a/b`.
    """
    name = BRACKETS.fullmatch(source)["path"].split(":")[0]
    return name if name in datasets else None


def without_paths(value: Any, datasets: Collection[str] = (), holds: str = "") -> Any:
    """Plain values with every path of this machine reduced to the name of its file.

    Sources of text and models are known by where they stand, since a relative path has no form of its own; elsewhere a
    path is known by being absolute.

    Args:
        datasets (`Collection[str]`): Hub datasets that were read: these sources of text stay.
        holds (`str`): what the texts in `value` are: `"sources"`, `"path"`, or anything.
    """
    if isinstance(value, str):
        if holds == "path" or (holds == "sources" and dataset_of(value, datasets) is None):
            return last_name(value)
        return file_name(value)
    if isinstance(value, Mapping):
        return {
            without_paths(key): without_paths(item, datasets, _held(value, key, holds)) for key, item in value.items()
        }
    return [without_paths(item, datasets, holds) for item in value] if isinstance(value, (list, tuple)) else value


def _held(values: Mapping[str, Any], key: str, above: str) -> str:
    """What the item `key` of `values` holds, see [`without_paths`]; models of the Hub have a revision."""
    if key in SOURCE_KEYS and not (key == "text" and isinstance(values[key], str)):
        return "sources"
    if isinstance(values[key], Mapping) and (key in MODEL_KEYS or above == "models"):
        return "models"
    named = key == "base_model" or (key == "name" and above == "models")
    if named and not (values.get("revision") or values.get("base_revision")):
        return "path"
    return above if above == "sources" else ""


def replaced_texts(before: Any, after: Any) -> dict[str, str]:
    """The texts in which two plain values of the same form differ."""
    if isinstance(before, str):
        return {} if before == after else {before: after}
    if isinstance(before, Mapping):
        before, after = ([*values, *values.values()] for values in (before, after))
    found: dict[str, str] = {}
    for pair in zip(before, after, strict=False) if isinstance(before, list) else ():
        found |= replaced_texts(*pair)
    return found
