"""What lies in the folder of a pruned or trimmed model, each file of it read once. Lightweight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..settings.files import CONFIG_NAME
from ..tensors.gguf_header import PART, WEIGHTS_FIELD, read_header, type_name
from ..utils.errors import ConfigurationError, FlabError
from ..vocabulary.files import OLDER_CLASS
from .json_files import ADVICE, parse_record, read_json
from .names import CARD_NAME, WEIGHTS, WEIGHTS_INDEX, is_license_file, is_result
from .plan import ADVICE as PLAN_ADVICE
from .plan import PLAN_NAME, PruningPlan, plan_weights
from .report import REPORT_NAME, Report, parse_report
from .results import EFFICIENCY_NAME, EVALUATION_NAME, EfficiencyRecord, EvaluationRecord
from .shards import shards
from .trim import TRIM_NAME, TrimReport


if TYPE_CHECKING:
    from ..settings.configuration import FlabPrunerConfig


class Results(NamedTuple):
    """What was measured on a checkpoint, by the files that say so, and a sentence for each file about another."""

    evaluations: dict[Path, EvaluationRecord]
    efficiency: dict[Path, EfficiencyRecord]
    left_out: list[str]


class Checkpoint:
    """A folder with a pruned or trimmed model. Each of its files is read when it is first asked for, and then known.

    What is known already, since it was written just now, is assigned: `checkpoint.report = report`.

    Every property that reads a file raises a [`FlabError`] if the file cannot be read, or is not what its name says.

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

    def _content_if_there(self, name: str) -> dict[str, Any] | None:
        return self.content(name) if (self.folder / name).is_file() else None

    # --- what was done ------------------------------------------------------------------------------------------

    @property
    def is_trimmed(self) -> bool:
        """Whether `optimum-cli flab trim` wrote it."""
        return (self.folder / TRIM_NAME).is_file()

    @property
    def is_pruned(self) -> bool:
        """Whether it has a plan."""
        return (self.folder / PLAN_NAME).is_file()

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
        config = self._content_if_there(CONFIG_NAME)
        return self.plan.settings if config is None else config

    @property
    def config(self) -> FlabPrunerConfig | None:
        """What was requested; `None` if a plan was applied.

        Raises:
            [`ConfigurationError`]: it is faulty.
        """
        from ..settings.configuration import FlabPrunerConfig

        content = self._content_if_there(CONFIG_NAME)
        return None if content is None else FlabPrunerConfig.from_dict(content)

    def setting(self, *path: str) -> Any:
        """A setting; `None` where the configuration has none of that name, as those of other versions may not."""
        value: Any = self.settings
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

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
        config = self._content_if_there("tokenizer_config.json") or {}
        return bool(config.get("chat_template")) or (self.folder / "chat_template.jinja").is_file()

    @property
    def transformers(self) -> str | None:
        """The oldest release of transformers that reads it as the model that was measured, "4.57" or "5.0"; `None`
        where it does not say."""
        config = self._content_if_there("tokenizer_config.json")
        if config is None:
            return None
        return "4.57" if config.get("tokenizer_class") == OLDER_CLASS else "5.0"

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
        """Those of these weights.

        Raises:
            [`ConfigurationError`]: see [`Checkpoint.results`].
        """
        return list(self.results.evaluations.values())

    @property
    def efficiency(self) -> EfficiencyRecord | None:
        """That of a checkpoint of this size.

        Raises:
            [`ConfigurationError`]: see [`Checkpoint.results`].
        """
        return next(iter(self.results.efficiency.values()), None)

    @property
    def result_files(self) -> list[Path]:
        """Where both were read from.

        Raises:
            [`ConfigurationError`]: see [`Checkpoint.results`].
        """
        return [path for path in self._result_paths if path in {*self.results.evaluations, *self.results.efficiency}]

    @cached_property
    def results(self) -> Results:
        """What was measured on it. An evaluation states the hash of the weights it was made with. Efficiency depends
        on sizes, not on the values of weights: it must agree in parameters and bytes.

        Raises:
            [`ConfigurationError`]: a place holds no results, two files hold the same score, or there are two
                efficiency files.
        """
        results, stated = Results({}, {}, []), dict[str, Path]()
        size = self.report.pruned.parameters, sum(path.stat().st_size for path in self.weight_files)
        for path in self._result_paths:
            names, content, advice = ["efficiency"], self._read(path), "evaluate or measure again"
            if path.name.startswith(EVALUATION_NAME[:-5]):
                evaluation = parse_record(EvaluationRecord, content, path, advice)
                if (weights := evaluation.own_model.weights_sha256) != self.report.weights_sha256:
                    sha256 = f"SHA-256 {weights[:12]}…"
                    results.left_out.append(
                        f"{path.name} is an evaluation of other weights ({sha256}) and is left out"
                    )
                    continue
                results.evaluations[path] = evaluation
                names = [f"{row.metric} of {row.task}" for row in evaluation.scores if row.of is None]
            else:
                measured = parse_record(EfficiencyRecord, content, path, advice)
                if (measured.own_model.parameters, measured.own_model.checkpoint_bytes) != size:
                    results.left_out.append(f"{path.name} measures a checkpoint of another size and is left out")
                    continue
                results.efficiency[path] = measured
            for name in names:
                if (other := stated.setdefault(name, path)) != path:
                    raise ConfigurationError(
                        f"{name} is in both {str(other)!r} and {str(path)!r}; name one of them with `results`"
                    )
        return results

    @cached_property
    def _result_paths(self) -> list[Path]:
        """Files with evaluations and efficiency: those at its top, or those in other places and below them."""
        if self.places is None:
            return _results_among(self.folder.glob("*"))
        paths: list[Path] = []
        for place in map(Path, self.places):
            results = _results_among([place] if place.is_file() else place.rglob("*"))
            if not results:
                raise ConfigurationError(
                    f"results {str(place)!r} hold neither {EVALUATION_NAME} nor {EFFICIENCY_NAME}; name what"
                    " `optimum-cli flab eval` or `flab bench` wrote"
                )
            paths += results
        return list(dict.fromkeys(paths))

    # --- whether it is whole ------------------------------------------------------------------------------------

    def check_complete(self) -> None:
        """Raises a [`ConfigurationError`] if it lacks a file that every pruned model has."""
        name = f"folder {str(self.folder)!r}"
        if not self.folder.is_dir():
            raise ConfigurationError(f"{name} does not exist; name what `optimum-cli flab prune` wrote")
        needed = ("config.json", "tokenizer.json", PLAN_NAME, REPORT_NAME)
        if missing := [file for file in needed if not (self.folder / file).is_file()]:
            raise ConfigurationError(
                f"{name} is not a complete pruned model, since it lacks {', '.join(missing)}; name what"
                " `optimum-cli flab prune` wrote"
            )
        if all((self.folder / file).is_file() for file in (WEIGHTS, WEIGHTS_INDEX)):
            raise ConfigurationError(
                f"{name} holds both {WEIGHTS} and {WEIGHTS_INDEX}, which names other files; delete the one that is"
                " outdated"
            )


def _results_among(paths: Iterable[Path]) -> list[Path]:
    """The files of results, those of a folder in the order of their numbers: the 2nd copy before the 10th."""
    results = (path for path in paths if is_result(path.name) and path.is_file())
    return sorted(results, key=lambda path: (str(path.parent), len(path.name), path.name))
