"""What the files of a pruned model state: report, settings, and the results that belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.saving import needed_transformers
from ..checkpoints.weight_files import shards
from ..records.json_files import parse_record, read_json
from ..records.names import is_license_file, is_result
from ..records.plan import PruningPlan
from ..records.report import Report, read_report
from ..records.results import EFFICIENCY_NAME, EVALUATION_NAME, EfficiencyRecord, EvaluationRecord
from ..settings.files import CONFIG_NAME
from ..tensors.gguf_header import own_gguf_files
from ..utils.errors import ConfigurationError


@dataclass(frozen=True)
class Facts:
    """Everything that a card states.

    Args:
        folder (`Path`): of the pruned model.
        report ([`Report`]): `flab_report.json`.
        settings (`dict`): the configuration of the run, or of the run that made the plan.
        corpus_hash (`str`): of the texts that determined the vocabulary.
        evaluations (`tuple[EvaluationRecord, ...]`): those of this checkpoint.
        efficiency ([`EfficiencyRecord`], *optional*): that of this checkpoint.
        result_files (`tuple[Path, ...]`): where both were read from.
        left_out (`tuple[str, ...]`): a sentence for each file of results that is about another checkpoint.
        license_files (`tuple[str, ...]`): licences and notices in the folder.
        gguf_files (`dict[str, str]`): number formats of the GGUF files that were written from these weights, by name.
        architecture (`str`, *optional*): the class that loads the weights.
        chat_template (`bool`): whether the tokenizer has one.
        transformers (`str`, *optional*): the oldest release that loads the checkpoint as the model that was measured.
    """

    folder: Path
    report: Report
    settings: dict[str, Any]
    corpus_hash: str
    evaluations: tuple[EvaluationRecord, ...]
    efficiency: EfficiencyRecord | None
    result_files: tuple[Path, ...]
    left_out: tuple[str, ...]
    license_files: tuple[str, ...]
    gguf_files: dict[str, str]
    architecture: str | None
    chat_template: bool
    transformers: str | None

    def setting(self, *path: str) -> Any:
        """A setting; `None` where the configuration has none of that name, as those of other versions may not."""
        value: Any = self.settings
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def read_facts(folder: Path, results: Sequence[str | Path] | None = None) -> Facts:
    """Reads the files of a pruned model.

    Args:
        results (`Sequence[str | Path]`, *optional*): folders (or files) with results; `None`: those in `folder`.

    Raises:
        [`FlabError`]: a file cannot be read, or is not what its name says.
        [`ConfigurationError`]: one of `results` holds no results, or two hold the same score.
    """
    report, plan = read_report(folder), PruningPlan.load(folder, tensors=False)
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else plan.settings
    paths = find_results(folder, results)
    evaluations, efficiency, left_out = read_results(paths, folder, report)
    tokenizer = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    licenses = sorted(one.name for one in folder.glob("*") if is_license_file(one.name) and one.is_file())
    architectures = read_json(folder / "config.json").get("architectures") or [None]
    return Facts(
        folder=folder,
        report=report,
        settings=config,
        corpus_hash=plan.corpus_hash,
        evaluations=tuple(evaluations.values()),
        efficiency=next(iter(efficiency.values()), None),
        result_files=tuple(path for path in paths if path in evaluations or path in efficiency),
        left_out=tuple(left_out),
        license_files=tuple(licenses),
        gguf_files=own_gguf_files(folder, report.weights_sha256),
        architecture=architectures[0],
        chat_template=bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file(),
        transformers=needed_transformers(folder),
    )


def find_results(folder: Path, places: Iterable[str | Path] | None) -> list[Path]:
    """Files with evaluations and efficiency: those at the top of a folder, or those in other places and below them."""
    if places is None:
        return _results_among(folder.glob("*"))
    paths: list[Path] = []
    for place in map(Path, places):
        results = _results_among([place] if place.is_file() else place.rglob("*"))
        if not results:
            raise ConfigurationError(
                f"results {str(place)!r} hold neither {EVALUATION_NAME} nor {EFFICIENCY_NAME}; name what"
                " `optimum-cli flab eval` or `flab bench` wrote"
            )
        paths += results
    return list(dict.fromkeys(paths))


def _results_among(paths: Iterable[Path]) -> list[Path]:
    """The files of results, those of a folder in the order of their numbers: the 2nd copy before the 10th."""
    results = (path for path in paths if is_result(path.name) and path.is_file())
    return sorted(results, key=lambda path: (str(path.parent), len(path.name), path.name))


def read_results(
    paths: Sequence[Path], folder: Path, report: Report
) -> tuple[dict[Path, EvaluationRecord], dict[Path, EfficiencyRecord], list[str]]:
    """The results of a checkpoint by their files, and a sentence for each file that is about another.

    An evaluation states the hash of the weights it was made with. Efficiency depends on sizes, not on the values of
    weights: it must agree in parameters and bytes.

    Args:
        folder (`Path`): of the checkpoint.
        report ([`Report`]): of the checkpoint.

    Raises:
        [`FlabError`]: a file is not what its name says.
        [`ConfigurationError`]: two files hold the same score, or there are two efficiency files.
    """
    evaluations, efficiency, left_out = dict[Path, EvaluationRecord](), dict[Path, EfficiencyRecord](), list[str]()
    stated: dict[str, Path] = {}
    size = report.pruned.parameters, sum(path.stat().st_size for path in shards(folder))
    for path in paths:
        names, content, advice = ["efficiency"], read_json(path), "evaluate or measure again"
        if path.name.startswith(EVALUATION_NAME[:-5]):
            evaluation = parse_record(EvaluationRecord, content, path, advice)
            if (weights := evaluation.own_model.weights_sha256) != report.weights_sha256:
                sha256 = f"SHA-256 {weights[:12]}…"
                left_out.append(f"{path.name} is an evaluation of other weights ({sha256}) and is left out")
                continue
            evaluations[path] = evaluation
            names = [f"{row.metric} of {row.task}" for row in evaluation.scores if row.of is None]
        else:
            measured = parse_record(EfficiencyRecord, content, path, advice)
            if (measured.own_model.parameters, measured.own_model.checkpoint_bytes) != size:
                left_out.append(f"{path.name} measures a checkpoint of another size and is left out")
                continue
            efficiency[path] = measured
        for name in names:
            if (other := stated.setdefault(name, path)) != path:
                raise ConfigurationError(
                    f"{name} is in both {str(other)!r} and {str(path)!r}; name one of them with `results`"
                )
    return evaluations, efficiency, left_out
