"""The kinds of problem: what a row of a data file must hold, as pydantic models."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .source import function_name, function_start


Doc = Mapping[str, Any]  # the fields of a problem, as lm-eval hands them to the functions of a task
SHOWN_TESTS = 3  # in a prompt of lm-eval's `mbpp`, which also judges by them


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


def _as_python_reads_it(code: str) -> str:
    return code.removeprefix("\ufeff").replace("\r\n", "\n")


def _name_of_a_function(value: str) -> str:
    name = function_name(value)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"is not the name of a function: {value!r}")
    return name


def _python(code: str) -> str:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not Python ({error})") from error
    return code


def _defines_check(code: str) -> str:
    if not re.search(r"^def check\s*\(", code, re.MULTILINE):
        raise ValueError("defines no function check(candidate)")
    return code


def _literal(text: str) -> str:
    try:
        ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("is not a value that can be read without running it") from error
    return text


def _in_a_gap_file(name: str) -> str:
    if not re.fullmatch("[^/]+/.+/[^/]+", name):
        raise ValueError("has no problem name between two slashes, as MultiLineInfilling/HumanEval/0/L0_L1 does")
    return name


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, AfterValidator(_not_empty)]
Name = Annotated[Text, BeforeValidator(_number_as_text), AfterValidator(str.strip)]
Source = Annotated[str, AfterValidator(_as_python_reads_it)]
Function = Annotated[str, AfterValidator(_name_of_a_function)]
Test = Annotated[Source, AfterValidator(_not_empty), AfterValidator(_python), AfterValidator(_defines_check)]
Assertions = Annotated[list[Annotated[str, AfterValidator(_python)]], Field(min_length=1)]


class Problem(BaseModel):
    """A row of a data file. What is not named here is not read."""

    model_config = ConfigDict(strict=True, extra="ignore")


class CodeProblem(Problem):
    """In HumanEval's format: `test` defines `check(candidate)`, and `canonical_solution` continues the prompt."""

    task_id: Name
    prompt: Annotated[Source, AfterValidator(_not_empty)]
    entry_point: Function
    test: Test
    canonical_solution: Source | None = ""

    @model_validator(mode="after")
    def _asks_for_its_function(self) -> CodeProblem:
        if function_start(self.whole, self.entry_point) is None:
            raise ValueError(f"'entry_point' has no line 'def {self.entry_point}(' in the code that is given")
        return self

    @property
    def whole(self) -> str:
        """Where the function begins."""
        return self.prompt


class PerturbedProblem(CodeProblem):
    """In ReCode's format; `partial` holds the clean prompt, up to a line with a mark."""

    partial: Source = ""


class Gap(CodeProblem):
    """A gap between `prompt` and `suffix`, whose `canonical_solution` is `None` where it is not known."""

    suffix: Source  # absent from other files, so that it is the first to be missed
    task_id: Annotated[Name, AfterValidator(_in_a_gap_file)]
    canonical_solution: Source | None = None  # an empty one is for a gap that should stay empty

    @property
    def whole(self) -> str:
        return self.prompt + (self.canonical_solution or "") + self.suffix


class GapOfLines(Gap):
    """A gap of whole lines."""

    @model_validator(mode="after")
    def _is_of_lines(self) -> GapOfLines:
        middle = self.canonical_solution
        others = "humaneval_random_span_infilling takes others"
        if not self.prompt.endswith("\n"):
            raise ValueError(f"'prompt' ends within a line, but the gaps of this task are whole lines; {others}")
        if middle and self.suffix and not middle.endswith("\n") and not self.suffix.startswith("\n"):
            raise ValueError(f"'canonical_solution' ends within a line, but these gaps are whole lines; {others}")
        return self


class MbppProblem(Problem):
    """In MBPP's format, or where the text is called `prompt` in that of its sanitized variant and of MBPP+, which is
    judged by `test`."""

    task_id: Name
    text: Text = Field(validation_alias=AliasChoices("text", "prompt"))
    test_list: Assertions
    code: str = ""
    test_setup_code: str = ""
    test_imports: list[str] = []
    test: Annotated[Source, AfterValidator(_python)] = ""


class ShownMbppProblem(MbppProblem):
    """One of which a prompt shows three tests."""

    @model_validator(mode="after")
    def _has_as_many_tests(self) -> ShownMbppProblem:
        if len(self.test_list) < SHOWN_TESTS:
            raise ValueError(
                f"'test_list' has {len(self.test_list)} tests, but the prompt shows {SHOWN_TESTS}; use mbpp_zero_shot"
            )
        return self


class OutputProblem(Problem):
    """In CRUXEval's format: `f(input)` returns `output`, both as source."""

    code: Annotated[Source, AfterValidator(_not_empty)]
    input: str
    output: Annotated[str, AfterValidator(_literal)]
    id: Annotated[str, BeforeValidator(_number_as_text)] = ""


class PlanProblem(Problem):
    """A problem and the reference plan for it."""

    prompt: Text
    cot: Text
