"""Infilling of single lines, from problems to the table, on tiny models with real tokens for it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tokenizers import AddedToken

from optimum_flab import EvaluationSettings, evaluate
from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.evaluation.catalog import hub_dataset, load_tasks
from optimum_flab.evaluation.comparison import TOGETHER
from optimum_flab.evaluation.lm import FlabLM
from optimum_flab.evaluation.references import check_references
from optimum_flab.evaluation.tasks import infilling
from optimum_flab.running.generation import BatchCache


TASK = "humaneval_infilling"
QWEN = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
OWN = "<|pre|>{prefix}<|suf|>{suffix}<|mid|>"
PROBLEM = {
    "task_id": "Test/0",
    "prompt": "import math\n\ndef half(x):\n    '''Return the half of x, rounded up.'''\n",
    "entry_point": "half",
    "canonical_solution": "    found = x / 2\n\n    found = math.ceil(found)\n    return found\n",
    "test": "def check(candidate):\n    assert candidate(3) == 2\n    assert candidate(4) == 2\n",
}
OTHER = {
    "task_id": "Test/1",
    "prompt": "def add_one(x):\n    '''Return x and one.'''\n",
    "entry_point": "add_one",
    "canonical_solution": "    return x + 1",
    "test": "def check(candidate):\n    assert candidate(3) == 4\n",
}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def file(tmp_path):
    return jsonl(tmp_path / "problems.jsonl", [PROBLEM, OTHER])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """lm-eval asks a dozen programs what machine this is, which takes seconds per task."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def tokenizer_with(*tokens, special=True):
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return tokenizer


def model_with(template, **options):
    """A tiny model, and a tokenizer with the tokens of a format."""
    marks = [part for part in template.replace("{prefix}", "\0").replace("{suffix}", "\0").split("\0") if part]
    tokenizer = tokenizer_with(*marks, **options)
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
    assert found[1]["line"] == "    found = math.ceil(found)"
    assert found[1]["suffix"] == "\n    return found\n"
    (only,) = infilling.gaps(OTHER)
    assert (only["line"], only["suffix"]) == ("    return x + 1", "")


@given(st.text("ab \n\t\f\r\x85\u2028", max_size=40))
def test_a_gap_with_its_line_is_the_solution(solution):
    found = list(infilling.gaps({**PROBLEM, "canonical_solution": solution}))
    assert len(found) == sum(bool(line.strip()) for line in solution.split("\n"))
    for gap in found:
        assert gap["prefix"] + gap["line"] + gap["suffix"] == PROBLEM["prompt"] + solution
        assert infilling.solved(gap).code == PROBLEM["prompt"] + solution


def test_humaneval_has_1033_lines_of_164_problems():
    (loaded,) = load_tasks(EvaluationSettings(tasks=TASK), confirm_run_unsafe_code=True)
    (task,) = loaded.tasks.values()
    docs = list(task.eval_docs)
    assert len(docs) == 1033 == len({doc["task_id"] for doc in docs})
    assert len({doc["problem"] for doc in docs}) == 164
    assert docs[0]["task_id"] == "HumanEval/0/L0"
    assert hub_dataset(task) is None  # its scores are not those of HumanEval


def test_problems_without_solutions_are_refused(tmp_path):
    path = jsonl(tmp_path / "bare.jsonl", [{**OTHER, "canonical_solution": ""}])
    with pytest.raises(FlabError, match="none of the 1 problems has a reference solution .* canonical_solution"):
        load_tasks(EvaluationSettings(tasks=TASK, data={TASK: path}), confirm_run_unsafe_code=True)


def test_what_a_model_wrote_counts_up_to_the_first_line_end():
    gap = list(infilling.gaps(PROBLEM))[1]
    written = [gap["line"], "    found = -(-x // 2)\n    return 0", "    found = found", "", "\n" + gap["line"]]
    (verdicts,) = infilling.run_lines([written], [gap])
    assert [verdict["passed"] for verdict in verdicts] == [True, True, False, False, False]
    assert verdicts[0]["program"] == PROBLEM["prompt"] + PROBLEM["canonical_solution"]


def test_references_are_checked_line_by_line(file, tmp_path):
    (found,) = check_references(EvaluationSettings(tasks=TASK, data={TASK: file}), confirm_run_unsafe_code=True)
    assert found.to_text() == f"{TASK}: 4 of 4 reference solutions pass"
    wrong = jsonl(tmp_path / "wrong.jsonl", [{**OTHER, "canonical_solution": "    return x"}])
    (found,) = check_references(EvaluationSettings(tasks=TASK, data={TASK: wrong}), confirm_run_unsafe_code=True)
    assert [name for name, _ in found.failures] == ["Test/1/L0"]


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_both_models_are_asked_with_the_tokens_of_the_dense_one(file, tmp_path):
    model = model_with(QWEN)
    found = run(model, file, tmp_path, baseline=model, tasks=(TASK, "openeval"))
    rows = {row.task: row for row in found.comparisons}
    assert (rows[TASK].problems, rows[TASK].clusters) == (4, 2)
    assert (rows["openeval"].problems, rows["openeval"].clusters) == (2, None)
    assert (rows[TOGETHER].problems, rows[TOGETHER].of) == (6, {TASK: 4, "openeval": 2})
    assert rows[TOGETHER].clusters == 2  # a program and its lines pass or fail together
    assert found.settings["fim_format"] == QWEN
    assert found.protocols[TASK].endswith(f"asked as {QWEN}")
    assert f"note: {TOGETHER}: 4 of {TASK} + 2 of openeval, each counted once: dense 0, pruned 0 of 6" in (
        found.to_text()
    )
    for samples in found.samples.values():
        prompts = [sample["arguments"][0][0] for sample in samples[TASK]]
        gaps = [gap for problem in (PROBLEM, OTHER) for gap in infilling.gaps(problem)]
        assert prompts == [QWEN.format(**{name: gap[name] for name in ("prefix", "suffix")}) for gap in gaps]
        assert "\n" not in "".join(sample["resps"][0][0] for sample in samples[TASK])


def test_the_limit_counts_problems_and_one_alone_has_no_interval(file, tmp_path):
    (row,) = run(model_with(QWEN), file, tmp_path, limit=2).comparisons
    assert (row.problems, row.clusters) == (4, 2) and row.score.interval is not None
    (row,) = run(model_with(QWEN), file, tmp_path, limit=1).comparisons
    assert row.problems > 1 and row.clusters == 1 and row.score.interval is None


def test_a_format_that_is_not_known_is_named_by_the_user(file, tmp_path):
    model = model_with(OWN)
    with pytest.raises(FlabError, match="special tokens of no known format; give the one .* `fim_format`, such as"):
        run(model, file, tmp_path)
    assert not (tmp_path / "cache").exists()
    found = run(model, file, tmp_path, fim_format=OWN)
    assert found.samples["model"][TASK][3]["arguments"][0][0] == f"<|pre|>{OTHER['prompt']}<|suf|><|mid|>"


def test_a_model_without_a_token_of_the_format_is_refused(file, tmp_path):
    model = model_with(QWEN)
    with pytest.raises(
        FlabError, match="'<\\|pre\\|>' \\(of fim_format: .*\\) is no special token of the tokenizer of"
    ):
        run(model, file, tmp_path, fim_format=OWN)
    with pytest.raises(FlabError, match="'<\\|fim_prefix\\|>' \\(of the format of .*\\) is no special token"):
        run(model_with(OWN), file, tmp_path, baseline=model)


def test_a_format_is_refused_where_it_is_malformed_or_nothing_asks_for_it(file, tmp_path):
    with pytest.raises(ConfigurationError, match="does not hold {prefix} and {suffix} once each"):
        run("no-such-model/at-all", file, tmp_path, fim_format="<|pre|>{prefix}")
    with pytest.raises(ConfigurationError, match="no task that is asked for has gaps to fill"):
        run(model_with(OWN), file, tmp_path, tasks=("openeval",), fim_format=OWN)


def test_a_completion_ends_with_the_tokens_of_the_format_and_special_ones(tmp_path):
    model, tokenizer = model_with(QWEN, special=False)
    end = tokenizer.convert_tokens_to_ids("<|fim_suffix|>")
    prompt = QWEN.format(prefix="def f(x):\n", suffix="\n")
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        hidden = model.model(torch.tensor([tokenizer.encode(prompt)])).last_hidden_state[0, -1]
        head.zero_()
        head[end] = hidden
    lm = FlabLM(model, tokenizer, weights_hash="w", cache=BatchCache(tmp_path))
    settings = {"until": ["\n"], "do_sample": False, "max_gen_toks": 6}

    def written(**more):
        return lm.generate_until([Instance("generate_until", {}, (prompt, {**settings, **more}), 0, ("t", 0, 1))])

    assert written(infilling=QWEN) == [""]
    assert written()[0].startswith("<|fim_suffix|>")
    (first,) = lm.generation_batches([Instance("generate_until", {}, (prompt, {**settings, "infilling": QWEN}), 0)])
    assert (lm._generation_key(first)["ends"], lm.end_ids) == (sorted({*lm.end_ids, 1, *range(600, 603)}), [0])


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
