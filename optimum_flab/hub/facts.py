"""What the files of a pruned model state: report, settings, and the results that belong to it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import ConfigurationError
from ..licenses import is_license_file
from ..records.json_files import read_json, validated
from ..records.report import REPORT_NAME, Recovery, Report, read_report
from ..recovery.curve import CURVE_NAME
from .gguf_files import GgufFile, own_gguf_files
from .measured import MeasuredEfficiency, MeasuredScores


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


@dataclass(frozen=True)
class Results:
    """Results of this checkpoint.

    Args:
        evaluations (`tuple[MeasuredScores, ...]`): contents of `flab_evaluation.json` files.
        efficiency ([`MeasuredEfficiency`], *optional*): content of `flab_efficiency.json`.
        files (`tuple[Path, ...]`): where they were read from.
        left_out (`tuple[str, ...]`): a sentence for each file that was not used.
    """

    evaluations: tuple[MeasuredScores, ...] = ()
    efficiency: MeasuredEfficiency | None = None
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Everything a card states.

    Args:
        report ([`Report`], *optional*): `flab_report.json`; `None` where there is none.
        settings (`dict`, *optional*): the configuration of the run, or of the run that made the plan.
        corpus_hash (`str`, *optional*): of the texts that determined the vocabulary.
        results ([`Results`]): evaluations and efficiency of this checkpoint.
        license_files (`tuple[str, ...]`): licences and notices in the folder.
        loss_curve (`str`, *optional*): the plot of the training losses, where there is one.
        architecture (`str`, *optional*): the class that loads the weights.
        chat_template (`bool`): whether the tokenizer has one.
        gguf_files (`tuple[GgufFile, ...]`): those in the folder that were written from these weights.
        transformers (`str`, *optional*): the oldest release that loads the checkpoint as the model that was measured.
    """

    report: Report | None
    settings: dict[str, Any] | None
    corpus_hash: str | None
    results: Results
    license_files: tuple[str, ...]
    loss_curve: str | None = None
    architecture: str | None = None
    chat_template: bool = False
    gguf_files: tuple[GgufFile, ...] = ()
    transformers: str | None = None

    @property
    def recovery(self) -> Recovery | None:
        """What the report says about the training after pruning; `None` where there was none."""
        return None if self.report is None else self.report.recovery

    @property
    def datasets(self) -> frozenset[str]:
        """The Hub datasets that were read for pruning and training."""
        return frozenset() if self.report is None else self.report.all_datasets


def read_facts(folder: Path, results: Sequence[str | Path] | None = None) -> Facts:
    """Reads the files of a pruned model.

    Args:
        results (`Sequence[str | Path]`, *optional*): folders (or files) with results; `None`: those in `folder`.

    Raises:
        [`FlabError`]: a file cannot be read, or is not what its name says.
        [`ConfigurationError`]: one of `results` holds no results, or two hold the same score.
    """
    from ..checkpoints.saving import needed_transformers

    report = read_report(folder) if (folder / REPORT_NAME).exists() else None
    plan = read_json(folder / PLAN_NAME) if (folder / PLAN_NAME).exists() else {}
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else plan.get("settings")
    paths = find_results([folder], below=False) if results is None else find_results(results)
    corpus_hash = plan.get("corpus_hash")
    trained = report is not None and report.recovery is not None
    return Facts(
        report=report,
        settings=config if isinstance(config, dict) else None,
        corpus_hash=corpus_hash if isinstance(corpus_hash, str) else None,
        results=own_results(paths, report, weight_bytes(folder)),
        license_files=tuple(
            sorted(path.name for path in folder.glob("*") if is_license_file(path.name) and path.is_file())
        ),
        loss_curve=CURVE_NAME if trained and (folder / CURVE_NAME).is_file() else None,
        architecture=architecture_of(folder),
        chat_template=has_chat_template(folder),
        gguf_files=own_gguf_files(folder, None if report is None else report.weights_sha256),
        transformers=needed_transformers(folder),
    )


def architecture_of(folder: Path) -> str | None:
    """The class that `config.json` names; `None` where it names none."""
    path = folder / "config.json"
    named = read_json(path).get("architectures") if path.exists() else None
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a chat template."""
    path = folder / "tokenizer_config.json"
    inside = read_json(path).get("chat_template") if path.exists() else None
    return bool(inside) or any((folder / name).is_file() for name in CHAT_TEMPLATE_FILES)


def is_result(name: str) -> bool:
    """Whether a file of this name holds an evaluation or efficiency."""
    return any(pattern.fullmatch(name) for pattern in RESULT_NAMES.values())


def at(values: Any, *path: str | int) -> Any:
    """The value at a path into nested objects from elsewhere; `None` where the path does not exist."""
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
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
    """Total size of the weight files that exist."""
    return sum(path.stat().st_size for path in weight_files(folder) if path.is_file())


# --- results -------------------------------------------------------------------------------------------------------


def find_results(places: Iterable[str | Path], below: bool = True) -> list[Path]:
    """Files with evaluations and efficiency in folders, sorted within each.

    Args:
        below (`bool`): also search their subfolders, and refuse a place that holds none.
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


def own_results(paths: Sequence[Path], report: Report | None, size: int) -> Results:
    """Those results that belong to a checkpoint.

    An evaluation states the hash of the weights it was made with. Efficiency depends on sizes, not on the values of
    weights: it must agree in parameters and bytes, and in the hash where it has one.

    Args:
        report ([`Report`], *optional*): of the checkpoint.
        size (`int`): bytes of its weight files.

    Raises:
        [`FlabError`]: a file is not what its name says.
        [`ConfigurationError`]: two files hold the same score, or there are two efficiency files.
    """
    weights = None if report is None else report.weights_sha256
    parameters = None if report is None else report.pruned.parameters
    evaluations, files, left_out = list[MeasuredScores](), [], []
    efficiency: MeasuredEfficiency | None = None
    scores: dict[tuple[str, str], Path] = {}
    for path in paths:
        if RESULT_NAMES[EVALUATION_NAME].fullmatch(path.name):
            evaluation = read_evaluation(path)
            of = evaluation.judged.weights_sha256
            if weights is None or of != weights:
                left_out.append(
                    f"{path.name} is an evaluation of other weights (SHA-256 {str(of)[:12]}…) and is left out"
                )
                continue
            single = [row for row in evaluation.scores if not row.of]
            for row in single:
                if other := scores.get((row.task, row.metric)):
                    raise ConfigurationError(
                        f"{row.metric} of {row.task} is in both {str(other)!r} and {str(path)!r}; name one of"
                        " them with `results`"
                    )
            scores |= {(row.task, row.metric): path for row in single}
            evaluations.append(evaluation)
        else:
            measured = read_efficiency(path)
            judged = measured.judged
            of = judged.weights_sha256
            same = of == weights if of is not None else judged.parameters == parameters
            if not same or judged.checkpoint_bytes != size:
                left_out.append(f"{path.name} measures a checkpoint of another size and is left out")
                continue
            if efficiency is not None:
                raise ConfigurationError(
                    f"{str(path)!r} is a second {EFFICIENCY_NAME}; name one of them with `results`"
                )
            efficiency = measured
        files.append(path)
    return Results(tuple(evaluations), efficiency, tuple(files), tuple(left_out))


def read_evaluation(path: Path) -> MeasuredScores:
    """A `flab_evaluation.json`.

    Raises:
        [`FlabError`]: it is damaged, or does not say which model it belongs to.
    """
    return validated(MeasuredScores, read_json(path), path, "evaluate again")


def read_efficiency(path: Path) -> MeasuredEfficiency:
    """A `flab_efficiency.json`.

    Raises:
        [`FlabError`]: it is damaged, or does not say which model it belongs to.
    """
    return validated(MeasuredEfficiency, read_json(path), path, "measure again")


def against_dense(evaluation: MeasuredScores, report: Report | None) -> bool:
    """Whether an evaluation compares with the very model that was pruned."""
    dense = None if evaluation.dense is None else evaluation.dense.weights_sha256
    return dense is not None and report is not None and dense == report.base_model.weights_sha256
