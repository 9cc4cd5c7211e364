"""The results that belong to a checkpoint, among the files that hold some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..utils.errors import ConfigurationError
from .names import is_result
from .report import Report
from .results import EFFICIENCY_NAME, EVALUATION_NAME, EfficiencyRecord, EvaluationRecord, read_result


def find_results(folder: Path, places: Iterable[str | Path] | None = None) -> list[Path]:
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
    paths: Sequence[Path], report: Report, size: int
) -> tuple[dict[Path, EvaluationRecord], dict[Path, EfficiencyRecord], list[str]]:
    """The results of a checkpoint by their files, and a sentence for each file that is about another.

    An evaluation states the hash of the weights it was made with. Efficiency depends on sizes, not on the values of
    weights: it must agree in parameters and bytes.

    Args:
        report ([`Report`]): of the checkpoint.
        size (`int`): bytes of its weight files.

    Raises:
        [`FlabError`]: a file is not what its name says.
        [`ConfigurationError`]: two files hold the same score, or there are two efficiency files.
    """
    evaluations, efficiency, left_out = dict[Path, EvaluationRecord](), dict[Path, EfficiencyRecord](), list[str]()
    scores: dict[tuple[str, str], Path] = {}
    for path in paths:
        if path.name.startswith(EVALUATION_NAME[:-5]):
            evaluation = read_result(EvaluationRecord, path)
            weights = evaluation.own_model.weights_sha256
            if weights != report.weights_sha256:
                sha256 = f"SHA-256 {weights[:12]}…"
                left_out.append(f"{path.name} is an evaluation of other weights ({sha256}) and is left out")
                continue
            for row in evaluation.scores:
                if row.of is None and (other := scores.setdefault((row.task, row.metric), path)) != path:
                    raise ConfigurationError(
                        f"{row.metric} of {row.task} is in both {str(other)!r} and {str(path)!r}; name one of them"
                        " with `results`"
                    )
            evaluations[path] = evaluation
        else:
            measured = read_result(EfficiencyRecord, path)
            if (measured.own_model.parameters, measured.own_model.checkpoint_bytes) != (
                report.pruned.parameters,
                size,
            ):
                left_out.append(f"{path.name} measures a checkpoint of another size and is left out")
                continue
            if efficiency:
                raise ConfigurationError(
                    f"{str(path)!r} is a second {EFFICIENCY_NAME}; name one of them with `results`"
                )
            efficiency[path] = measured
    return evaluations, efficiency, left_out
