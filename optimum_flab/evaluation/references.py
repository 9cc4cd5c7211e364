"""Runs the reference solutions of problems, and empty programs, against their tests.

A reference that fails caps every score, and a test that an empty program passes raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lm_eval.api.task import Task

from ..execution import Program, best_isolation, check_packages, check_system
from ..settings.evaluation import DIVERGENCE, EvaluationSettings, check_tasks
from ..utils.errors import ConfigurationError, FlabError, printable
from ..utils.progress import say
from .catalog import STANDARD_RAW, load_tasks
from .problems import Doc
from .standard import with_standard_set
from .tasks import output_prediction
from .tasks.code import Judge, run_with_progress


@dataclass(frozen=True)
class References:
    """The results of running the reference solutions of a task.

    Args:
        number (`int`): reference solutions that were run; one for each prompt where a problem has several prompts.
        without (`int`): problems without one.
        failures (`list[tuple[str, str]]`): name of a problem, and why its reference fails.
        unchecked (`list[str]`): names of problems whose tests pass without a solution, see [`empty_program`].
    """

    task: str
    number: int
    without: int
    failures: list[tuple[str, str]]
    unchecked: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """A line with the numbers, and one for each reference that fails."""
        passes = self.number - len(self.failures)
        line = f"{self.task}: {passes:,} of {self.number:,} reference solutions pass{'es' if passes == 1 else ''}"
        if self.without:
            line += f"; {self.without:,} problem{' has' if self.without == 1 else 's have'} none"
        failures = [(printable(name), reason) for name, reason in self.failures]
        width = max((len(name) for name, _ in failures), default=0)
        lines = [line, *(f"  {name:<{width}}  {reason}" for name, reason in failures)]
        if self.unchecked:
            lines.append(
                f"  tests that check nothing (an empty program passes): {', '.join(map(printable, self.unchecked))}"
            )
        return "\n".join(lines)


def check_references(settings: EvaluationSettings, *, confirm_run_unsafe_code: bool = False) -> list[References]:
    """Runs every problem's own reference solution in the sandbox, as an evaluation would run a model's, and an empty
    program with its test.

    Args:
        settings ([`~settings.evaluation.EvaluationSettings`]): names tasks that run programs, or `cruxeval_output`,
            whose functions are called; of the rest, their data, the limit and the packages count.
        confirm_run_unsafe_code (`bool`): consent to run the code in the data, in the sandbox.

    Returns:
        `list` of [`References`]: one for each task, with the problems that fail, and why, and those whose tests check
            nothing.

    Raises:
        [`ConfigurationError`]: a task is unknown or runs no programs, or consent is missing.
        [`FlabError`]: data is malformed or unavailable, or has no reference solutions at all.
    """
    check_system()
    check_tasks(settings)
    if DIVERGENCE in settings.tasks:
        raise _without_programs(DIVERGENCE)
    if not confirm_run_unsafe_code:
        raise ConfigurationError(
            "the check of references runs code from the data, in a sandbox; if you accept that, confirm it with"
            " `confirm_run_unsafe_code`"
        )
    packages = check_packages(settings.allow_packages, best_isolation())
    asked, left_out = with_standard_set(settings)
    for note in left_out:
        say(f"note: {note}")
    plain = EvaluationSettings(**asked.model_dump(include={"data", "include_path", "limit"}))
    # chat tasks have the same references
    plain.tasks = [task for task in asked.tasks if task in (*settings.tasks, *STANDARD_RAW)]
    loaded = load_tasks(plain, confirm_run_unsafe_code=confirm_run_unsafe_code)
    programs = {name: _programs(name, task, named.limit) for named in loaded for name, task in named.tasks.items()}
    return [_run(name, of_problems, packages) for name, of_problems in programs.items()]


def _run(task: str, programs: Sequence[tuple[str, Program | None]], packages: Sequence[str]) -> References:
    ours = [(problem, program) for problem, program in programs if program is not None]
    names = [name for name, _ in ours]
    verdicts = run_with_progress([program for _, program in ours], packages)
    pairs = zip(names, verdicts, strict=True)
    failures = [(name, f"{verdict.status}: {verdict.detail}") for name, verdict in pairs if not verdict.passed]
    empty = run_with_progress([empty_program(program) for _, program in ours], packages)
    unchecked = [name for name, verdict in zip(names, empty, strict=True) if verdict.passed]
    return References(task, len(ours), len(programs) - len(ours), failures, unchecked)


def empty_program(program: Program) -> Program:
    """A program that does nothing, for the same test: the function that is asked for returns `None`, whatever it is
    given."""
    name = program.entry_point
    code = f"def {name}(*_, **__): pass" if name is not None and name.isidentifier() else ""
    return replace(program, code=code)


def _programs(name: str, task: Task, limit: int | None) -> list[tuple[str, Program | None]]:
    """Name and reference program of every problem of a task."""
    steps = [step for item in task.config.filter_list or () for step in item["filter"]]
    solutions = [judge.reference_program for step in steps if isinstance(judge := step.get("filter_fn"), Judge)]
    if task.config.process_results is output_prediction.score:
        solutions.append(output_prediction.reference_program)
    if not solutions:
        raise _without_programs(name)
    documents = list(task.eval_docs)[:limit]
    programs = [(_problem(number, doc), solutions[0](doc)) for number, doc in enumerate(documents, start=1)]
    if all(program is None for _, program in programs):
        raise FlabError(
            f"task {name!r}: none of its {len(programs):,} problems has a reference solution (field"
            " canonical_solution, or code for MBPP), so there is nothing to check"
        )
    return programs


def _problem(number: int, doc: Doc) -> str:
    name = str(doc.get("task_id") or doc.get("id") or f"problem {number}")
    return f"{name} [{doc['variant']}]" if doc.get("perturbed") else name


def _without_programs(name: str) -> ConfigurationError:
    return ConfigurationError(f"task {name!r} runs no programs, so it has no references to check")
