"""What lies in the folder of a pruned or trimmed model, each file of it read once. Lightweight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.files import CONFIG_NAME
from ..tensors.gguf_header import PART, WEIGHTS_FIELD, read_header, type_name
from ..utils.errors import ConfigurationError, FlabError
from ..utils.hashing import file_sha256
from ..vocabulary.files import OLDER_CLASS
from .json_files import ADVICE, read_json
from .names import CARD_NAME, WEIGHTS, WEIGHTS_INDEX, is_license_file, is_result
from .plan import ADVICE as PLAN_ADVICE
from .plan import PLAN_NAME, PruningPlan, plan_weights
from .report import REPORT_NAME, Report, parse_report
from .results import EFFICIENCY_NAME, EVALUATION_NAME, EfficiencyRecord, EvaluationRecord, parse_result
from .shards import shards
from .trim import TRIM_NAME, TrimReport


if TYPE_CHECKING:
    from ..settings.configuration import FlabPrunerConfig


class Checkpoint:
    """A folder with a pruned or trimmed model. Each of its files is read when it is first asked for, and then known.

    What is known already, since it was written just now, is assigned: `checkpoint.report = report`.

    What reads a file raises a [`FlabError`] if the file cannot be read, or is not what its name says; results a
    [`ConfigurationError`] if a place holds none, two files hold the same score, or there are two files of efficiency.

    Args:
        folder (`str` or `Path`): of the model.
        results (`Sequence[str | Path]`, *optional*): folders (or files) with its evaluations and efficiency. Defaults
            to those in `folder`.
    """

    def __init__(self, folder: str | Path, results: Sequence[str | Path] | None = None):
        self.folder = Path(folder)
        self.places = results
        self._contents: dict[Path, dict[str, Any]] = {}

    def content(self, name: str, advice: str = ADVICE) -> dict[str, Any]:
        """The JSON object in one of its files.

        Args:
            name (`str`): its path in the folder.
            advice (`str`): what to do if it cannot be read, for the message.
        """
        return self._read(self.folder / name, advice)

    def _read(self, path: Path, advice: str = ADVICE) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read_json(path, advice)
        return self._contents[path]

    def has(self, name: str) -> bool:
        """Whether it holds a file of this name."""
        return (self.folder / name).is_file()

    # --- what was done ------------------------------------------------------------------------------------------

    @property
    def is_trimmed(self) -> bool:
        """Whether `optimum-cli flab trim` wrote it."""
        return self.has(TRIM_NAME)

    @cached_property
    def report(self) -> Report:
        """What pruning removed and what that cost."""
        return parse_report(self.content(REPORT_NAME, "name the folder of a pruned model"), self.folder / REPORT_NAME)

    @cached_property
    def trim(self) -> TrimReport:
        """What was trimmed."""
        return TrimReport.parse(self.content(TRIM_NAME), self.folder / TRIM_NAME)

    @cached_property
    def plan(self) -> PruningPlan:
        """What was kept, without the tensors that compensation changed."""
        return PruningPlan.parse(self.content(PLAN_NAME, PLAN_ADVICE), self.folder / PLAN_NAME)

    @cached_property
    def whole_plan(self) -> PruningPlan:
        """What was kept."""
        return replace(self.plan, weights=plan_weights(self.content(PLAN_NAME), self.folder / PLAN_NAME))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration of the run as it was written, or that of the run that made the plan."""
        return self.content(CONFIG_NAME) if self.has(CONFIG_NAME) else self.plan.settings

    @property
    def config(self) -> FlabPrunerConfig | None:
        """What was requested; `None` if a plan was applied.

        Raises:
            [`ConfigurationError`]: it is faulty.
        """
        from ..settings.configuration import FlabPrunerConfig

        return FlabPrunerConfig.from_dict(self.settings) if self.has(CONFIG_NAME) else None

    def section(self, name: str) -> dict[str, Any]:
        """A section of the settings; empty where they have none of that name."""
        return self.settings.get(name) or {}

    # --- the model ----------------------------------------------------------------------------------------------

    @property
    def weight_files(self) -> list[Path]:
        """The files with its weights, sorted."""
        return shards(self.folder)

    @property
    def architecture(self) -> str | None:
        """The class that loads the weights."""
        return (self.content("config.json").get("architectures") or [None])[0]

    @property
    def chat_template(self) -> bool:
        """Whether its tokenizer has one."""
        stated = self._tokenizer_config.get("chat_template")
        return bool(stated) or self.has("chat_template.jinja")

    @property
    def transformers(self) -> str | None:
        """The oldest release of transformers that reads it as the model that was measured, "4.57" or "5.0"; `None`
        where it does not say."""
        if not self._tokenizer_config:
            return None
        return "4.57" if self._tokenizer_config.get("tokenizer_class") == OLDER_CLASS else "5.0"

    @property
    def _tokenizer_config(self) -> dict[str, Any]:
        return self.content("tokenizer_config.json") if self.has("tokenizer_config.json") else {}

    @cached_property
    def gguf_files(self) -> dict[str, str]:
        """The number formats of the GGUF files in it that were written from its weights, by their sorted names."""
        types = {}
        for path in sorted(self.folder.glob("*.gguf")):
            part = PART.fullmatch(path.name)
            # of several parts the first states what they were made from
            first = path if part is None else path.with_name(f"{part['stem']}-00001-of-{part['count']}.gguf")
            try:
                fields = read_header(first).fields
                if fields.get(WEIGHTS_FIELD) == self.report.weights_sha256 is not None:
                    types[path.name] = type_name(fields)
            except (FlabError, OSError, KeyError, ValueError):  # damaged, or somebody else's
                continue
        return types

    @property
    def current_report(self) -> Report:
        """Its report without the GGUF files that others have replaced since they were measured; of one that was taken
        away it still says what was measured."""

        def is_replaced(path: Path, sha256: str) -> bool:
            return path.exists() and not (path.is_file() and file_sha256(path) == sha256)

        files = (one for one in self.report.files if not is_replaced(self.folder / one.name, one.sha256))
        return self.report.model_copy(update={"files": tuple(files)})

    # --- what is beside it --------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> list[str]:
        """The paths of all files in it, relative to it."""
        there = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in there)

    @property
    def license_files(self) -> list[str]:
        """The names of the licences and notices."""
        return sorted(path.name for path in self.folder.iterdir() if is_license_file(path.name) and path.is_file())

    @cached_property
    def card(self) -> str | None:
        """The text of its card; `None` where there is none."""
        path = self.folder / CARD_NAME
        try:
            return path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FlabError(f"{str(path)!r} cannot be read ({error}); move it away") from error

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """Those of these weights."""
        return [record for record in self._results.values() if isinstance(record, EvaluationRecord)]

    @property
    def efficiency(self) -> EfficiencyRecord | None:
        """That of a checkpoint of this size."""
        return next((record for record in self._results.values() if isinstance(record, EfficiencyRecord)), None)

    @property
    def result_files(self) -> list[Path]:
        """Where both were read from."""
        return list(self._results)

    @cached_property
    def other_results(self) -> dict[Path, str]:
        """Why other files with results are not about it."""
        reasons = ((path, self._reason_against(record)) for path, record in self._all_results.items())
        return {path: f"{path.name} {reason} and is left out" for path, reason in reasons if reason is not None}

    @cached_property
    def _results(self) -> dict[Path, EvaluationRecord | EfficiencyRecord]:
        own = {path: record for path, record in self._all_results.items() if path not in self.other_results}
        stated = dict[str, Path]()
        for path, record in own.items():
            for name in record.measured:
                if (other := stated.setdefault(name, path)) != path:
                    raise ConfigurationError(
                        f"{name} is in both {str(other)!r} and {str(path)!r}; name one of them with `results`"
                    )
        return own

    def _reason_against(self, record: EvaluationRecord | EfficiencyRecord) -> str | None:
        """Efficiency depends on sizes, not on the values of weights: it must agree in parameters and bytes."""
        if isinstance(record, EvaluationRecord):
            weights = record.own_model.weights_sha256
            is_own = weights == self.report.weights_sha256
            return None if is_own else f"is an evaluation of other weights (SHA-256 {weights[:12]}…)"
        size = self.report.pruned.parameters, sum(path.stat().st_size for path in self.weight_files)
        is_own = (record.own_model.parameters, record.own_model.checkpoint_bytes) == size
        return None if is_own else "measures a checkpoint of another size"

    @cached_property
    def _all_results(self) -> dict[Path, EvaluationRecord | EfficiencyRecord]:
        """By the files at its top, or those in other places and below them."""
        paths = _results_among(self.folder.glob("*")) if self.places is None else []
        for place in map(Path, self.places or ()):
            found = _results_among([place] if place.is_file() else place.rglob("*"))
            if not found:
                raise ConfigurationError(
                    f"results {str(place)!r} hold neither {EVALUATION_NAME} nor {EFFICIENCY_NAME}; name what"
                    " `optimum-cli flab eval` or `flab bench` wrote"
                )
            paths += found
        return {path: parse_result(self._read(path), path) for path in dict.fromkeys(paths)}

    # --- whether it is whole ------------------------------------------------------------------------------------

    def check_complete(self) -> None:
        """Raises a [`ConfigurationError`] if it lacks a file that every pruned model has."""
        name = f"folder {str(self.folder)!r}"
        if not self.folder.is_dir():
            raise ConfigurationError(f"{name} does not exist; name what `optimum-cli flab prune` wrote")
        needed = ("config.json", "tokenizer.json", PLAN_NAME, REPORT_NAME)
        if missing := [file for file in needed if not self.has(file)]:
            raise ConfigurationError(
                f"{name} is not a complete pruned model, since it lacks {', '.join(missing)}; name what"
                " `optimum-cli flab prune` wrote"
            )
        if self.has(WEIGHTS) and self.has(WEIGHTS_INDEX):
            raise ConfigurationError(
                f"{name} holds both {WEIGHTS} and {WEIGHTS_INDEX}, which names other files; delete the one that is"
                " outdated"
            )


def _results_among(paths: Iterable[Path]) -> list[Path]:
    """The files of results, those of a folder in the order of their numbers: the 2nd copy before the 10th."""
    results = (path for path in paths if is_result(path.name) and path.is_file())
    return sorted(results, key=lambda path: (str(path.parent), len(path.name), path.name))
