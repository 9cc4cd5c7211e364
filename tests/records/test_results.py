"""Scores in `flab_evaluation.json` follow from the problems that were passed, or the file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.evaluation.comparison import MEAN, Passed, compare, pooled_score
from optimum_flab.records.json_files import parse_record
from optimum_flab.records.results import EvaluationRecord, ScoreRow
from optimum_flab.utils.errors import FlabError


TASKS = "humaneval", "codeharmony"


def evaluation(passed: list[list[str]], roles: tuple[str, ...] = ("dense", "pruned")) -> dict:
    """The content of the file for two tasks: of each, by model, a digit for each problem."""
    rows, sets, outcomes = [], [], {}
    for task, digits in zip(TASKS, passed, strict=True):
        models = [[int(one) for one in of] for of in digits]
        problems = [f"{task}/{number}" for number in range(len(digits[0]))]
        sets.append(Passed(task, problems, models))
        row = ScoreRow(task=task, metric="pass@1", higher_is_better=True, problems=0)
        rows.append(compare(row, MEAN, *(MEAN.rows(of) for of in reversed(models))))
        outcomes[task] = {"problems": problems, "passed": dict(zip(roles, digits, strict=True))}
    rows.append(pooled_score("programs", sets))
    made = EvaluationRecord(
        models={role: {"name": role, "weights_sha256": "0" * 64} for role in roles}, scores=rows, outcomes=outcomes
    )
    return EvaluationRecord.model_dump(made, mode="json")


def read(content: dict) -> EvaluationRecord:
    return parse_record(EvaluationRecord, content, Path("flab_evaluation.json"))


@st.composite
def passes(draw, models: int) -> list[list[str]]:
    sizes = [draw(st.integers(1, 6)) for _ in TASKS]
    return [[draw(st.text("01", min_size=size, max_size=size)) for _ in range(models)] for size in sizes]


@settings(max_examples=15, deadline=None)
@given(passes(2), st.data())
def test_another_problem_passed_or_failed_is_found(passed, data):
    content = evaluation(passed)
    assert read(content).models.keys() == {"dense", "pruned"}
    digits = content["outcomes"][data.draw(st.sampled_from(TASKS))]["passed"]
    role = data.draw(st.sampled_from(["dense", "pruned"]))
    digits[role] = str(1 - int(digits[role][0])) + digits[role][1:]
    with pytest.raises(FlabError, match=f"{role}: .* is not the share of the problems passed"):
        read(content)


@settings(max_examples=5, deadline=None)
@given(passes(1))
def test_a_model_alone(passed):
    content = evaluation(passed, ("model",))
    read(content)
    content["scores"][2]["score"]["value"] += 0.1
    with pytest.raises(FlabError, match="programs, model: "):
        read(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(models={}), "models must hold 'pruned' or 'model'"),
        (lambda content: content["scores"][0]["retention"].update(value=0.9), "humaneval: 0.9 is not the share that"),
        (lambda content: content["scores"][0].update(problems=5), "humaneval, dense: 0.5 is not the share of the"),
        (lambda content: content["outcomes"]["humaneval"]["problems"].pop(), "a digit for each of the 3 problems"),
        (lambda content: content["outcomes"]["humaneval"]["passed"].update(dense="01x1"), "passed.dense: "),
    ],
)
def test_what_an_editor_may_leave_is_told(change, message):
    content = evaluation([["1100", "1000"], ["11", "01"]])
    change(content)
    with pytest.raises(FlabError, match=message):
        read(content)
