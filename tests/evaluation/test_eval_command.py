from __future__ import annotations

import json
import shlex

import pytest

from ..conftest import byte_level_tokenizer, flab, saved, tiny_model
from .problems import ADD_ONE, OUTPUTS, PLANS, TWICE, jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense and a pruned checkpoint, and problems."""
    folder = tmp_path_factory.mktemp("eval")
    for name in ("dense", "pruned"):
        saved(tiny_model("llama", 600, eos_token_id=0), folder / name)
        byte_level_tokenizer(600).save_pretrained(folder / name)
    jsonl(folder / "outputs.jsonl", OUTPUTS)
    jsonl(folder / "plans.jsonl", PLANS)
    jsonl(folder / "faulty.jsonl", [{"code": "x"}])
    return folder


def test_the_table_is_printed_and_the_results_are_written_or_printed_as_json(folder):
    section = "evaluation: {tasks: cruxeval_output, data: {cruxeval_output: outputs.jsonl}, limit: 2}"
    (folder / "flab.yaml").write_text(f"target_ratio: 0.3\n{section}\n", encoding="utf-8")
    options = shlex.split("-c flab.yaml --max-new-tokens 4 --cache-dir cache")
    result = flab(
        "eval",
        "pruned",
        "--baseline",
        "dense",
        *options,
        "--limit",
        3,
        "-o",
        "results",
        "--data",
        f"cruxeval_output={folder / 'outputs.jsonl'}",
        cwd=folder,
    )
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("dense: dense (weights ")
    assert lines[3].split() == ["task", "metric", "problems", "dense", "pruned", "against", "dense"]
    assert lines[5].split()[:4] == ["cruxeval_output", "exact", "match", "3"] and lines[5].endswith("not comparable")
    assert lines[-1].startswith("written to results in ")  # of a model without a card nothing follows
    assert "1 of 2 batches were reused from earlier runs" in result.err  # the models have the same weights
    found = sorted(path.relative_to(folder / "results").as_posix() for path in (folder / "results").rglob("*.json*"))
    of_role = ["{}/results.json", "{}/samples_cruxeval_output.jsonl"]
    assert found == [
        *(name.format("dense") for name in of_role),
        "flab_evaluation.json",
        *(name.format("pruned") for name in of_role),
    ]
    record = json.loads((folder / "results" / "flab_evaluation.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("optimum-cli flab eval -m pruned --baseline dense -o results -c flab.yaml")
    assert "--data cruxeval_output=outputs.jsonl" in record["command"]
    refused = flab("eval", "nowhere/at", *options, "-o", "results", cwd=folder)
    assert (refused.code, refused.out) == (1, "") and "--overwrite" in refused.err
    again = flab("eval", "dense", *options, "--json", "-q", cwd=folder)
    assert (again.code, again.err) == (0, "")
    assert [score["task"] for score in json.loads(again.out)["scores"]] == ["cruxeval_output"]


def test_the_tasks_are_listed_without_a_model():
    result = flab("eval", "--list-tasks")
    names = {line.split()[0] for line in result.out.splitlines() if line}
    assert result.code == 0 and {"humaneval", "humaneval_instruct", "mbpp", "recode", "divergence"} <= names


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--tasks humaneval", 2, "required: -m/--model (only --check-references works without)"),
        ("-m dense", 2, "no task is named; set `tasks` (--tasks), such as divergence, perplexity or humaneval"),
        ("-m dense --tasks humaneval", 2, "--confirm-run-unsafe-code"),
        (
            "-m dense --tasks humaneval --confirm-run-unsafe-code --allow-packages numpy,no_such",
            2,
            "(--allow-packages) no_such: no package of that name is installed here; install it, or leave it out",
        ),
        (
            "-m dense --tasks cot_bleu --data cot_bleu=plans.jsonl --allow-packages numpy",
            2,
            "allow_packages (--allow-packages): numpy, but none of cot_bleu runs programs; leave it out",
        ),
        (
            "-m dense --tasks cruxeval_output --data cruxeval_output=faulty.jsonl",
            1,
            "faulty.jsonl, row 1: field 'input' is missing (fields found: code)",
        ),
        (
            "-m nowhere/at --tasks cruxeval_output --data cruxeval_output=no.jsonl",
            1,
            "file 'no.jsonl' cannot be read (No such file or directory)",
        ),
        (
            "-m ./nowhere --tasks cruxeval_output --data cruxeval_output=outputs.jsonl",
            1,
            "model './nowhere' does not exist",
        ),
        pytest.param(
            "-m dense --tasks humanevall,mbpp",
            2,
            "unknown task 'humanevall'; did you mean humaneval",
            marks=pytest.mark.thorough,  # all of lm-eval's tasks are read
        ),
    ],
)
def test_bad_input_ends_with_one_line_and_its_exit_code(folder, arguments, code, message):
    ended = flab("eval", *shlex.split(arguments), cwd=folder)
    assert (ended.code, ended.out) == (code, "") and message in " ".join(ended.err.split())


# --- references


def test_the_check_of_references_needs_no_model_and_ends_with_1_if_one_fails(tmp_path):
    wrong = {**ADD_ONE, "task_id": "Test/2", "canonical_solution": "    return x\n"}
    jsonl(tmp_path / "a.jsonl", [TWICE, wrong, {**ADD_ONE, "task_id": "Test/3", "canonical_solution": ""}])
    arguments = ["--check-references", "--tasks", "openeval", "--data", "openeval=a.jsonl"]
    ended = flab("eval", *arguments, "--confirm-run-unsafe-code", cwd=tmp_path)
    assert ended.code == 1 and ended.out.splitlines() == [
        "openeval: 1 of 2 reference solutions passes; 1 problem has none",
        "  Test/2  failed: AssertionError in: assert candidate(3) == 4",
    ]
    assert "1 reference solution fails; if a right answer would fail too, that lowers every score" in ended.err
    ended = flab("eval", *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "") and "--confirm-run-unsafe-code" in ended.err
    jsonl(tmp_path / "a.jsonl", [TWICE, ADD_ONE])
    ended = flab("eval", *arguments, "--confirm-run-unsafe-code", cwd=tmp_path)
    assert ended[:2] == (0, "openeval: 2 of 2 reference solutions pass\n")
