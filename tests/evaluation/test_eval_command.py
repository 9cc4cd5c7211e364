from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import byte_level_tokenizer, flab, tiny_model


COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", "eval"]
OUTPUTS = [{"code": "def f(x):\n    return x", "input": str(number), "output": str(number)} for number in range(4)]


def cli(*arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Runs the command in this process, inside `folder`; gives the exit code, what was printed, and the faults."""
    from optimum.commands.optimum_cli import main

    def call(*arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["optimum-cli", "flab", "eval", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dense and a pruned checkpoint, and problems."""
    folder = tmp_path_factory.mktemp("eval")
    tokenizer = byte_level_tokenizer(600)
    for name in ("dense", "pruned"):
        tiny_model("llama", 600, eos_token_id=0).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OUTPUTS), encoding="utf-8")
    (folder / "plans.jsonl").write_text('{"prompt": "def f(x):", "cot": "Step 1."}\n', encoding="utf-8")
    (folder / "faulty.jsonl").write_text('{"code": "x"}\n', encoding="utf-8")
    return folder


def test_the_table_is_printed_and_the_results_are_written_or_printed_as_json(folder):
    section = "evaluation: {tasks: cruxeval_output, data: {cruxeval_output: outputs.jsonl}, limit: 2}"
    (folder / "flab.yaml").write_text(f"target_ratio: 0.3\n{section}\n", encoding="utf-8")
    result = cli(
        "-m", "pruned", "--baseline", "dense", "-c", "flab.yaml", "--limit", 3, "--max-new-tokens", 4,
        "--cache-dir", "cache", "-o", "results", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dense: dense (weights ")
    assert lines[3].split() == ["task", "metric", "problems", "dense", "pruned", "retention"]
    assert lines[5].split()[:3] == ["cruxeval_output", "exact_match", "3"]
    assert lines[5].endswith("not comparable")
    assert lines[-1].startswith("written to results in ")
    found = sorted(path.relative_to(folder / "results").as_posix() for path in (folder / "results").rglob("*.json*"))
    assert found == [
        "dense/results.json",
        "dense/samples_cruxeval_output.jsonl",
        "flab_evaluation.json",
        "pruned/results.json",
        "pruned/samples_cruxeval_output.jsonl",
    ]

    again = flab("eval", "dense", *"-c flab.yaml --max-new-tokens 4 --cache-dir cache --json -q".split(), cwd=folder)
    assert (again.code, again.err) == (0, "")
    assert [score["task"] for score in json.loads(again.out)["scores"]] == ["cruxeval_output"]


def test_the_tasks_are_listed_without_a_model():
    result = cli("--list-tasks")
    assert result.returncode == 0
    names = [line.split()[0] for line in result.stdout.splitlines() if line]
    assert {"humaneval", "humaneval_instruct", "mbpp", "cruxeval_output", "cot_bleu", "recode", "divergence"} <= set(
        names
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tasks", "humaneval"], 2, "the following arguments are required: -m/--model"),
        (["-m", "dense"], 2, "no task is named; set `tasks` (--tasks), such as humaneval"),
        (["-m", "dense", "--tasks", "humaneval"], 2, "--confirm-run-unsafe-code"),
        (
            ["-m", "dense", "--tasks", "cruxeval_output", "--data", "outputs.jsonl"],
            2,
            "'outputs.jsonl' is not of the form KEY=VALUE",
        ),
        (
            ["-m", "dense", "--tasks", "cruxeval_output", "--limit", "0"],
            2,
            "evaluation.limit (--limit): 0 should be greater than 0",
        ),
        (
            ["-m", "dense", "--tasks", "humaneval", "--confirm-run-unsafe-code", "--allow-packages", "numpy,no_such"],
            2,
            "(--allow-packages) no_such: no package of that name is installed here; install it, or leave it out",
        ),
        (
            ["-m", "dense", "--tasks", "cot_bleu", "--data", "cot_bleu=plans.jsonl", "--allow-packages", "numpy"],
            2,
            "allow_packages (--allow-packages): numpy, but none of cot_bleu runs programs; leave it out",
        ),
        (
            ["-m", "dense", "--tasks", "cruxeval_output", "--data", "cruxeval_output=faulty.jsonl"],
            1,
            "faulty.jsonl, row 1: field 'input' is missing (fields found: code)",
        ),
        (
            ["-m", "nowhere/at", "--tasks", "cruxeval_output", "--data", "cruxeval_output=no.jsonl"],
            1,
            "file 'no.jsonl' cannot be read (No such file or directory)",
        ),
        (
            ["-m", "./nowhere", "--tasks", "cruxeval_output", "--data", "cruxeval_output=outputs.jsonl"],
            1,
            "model './nowhere' does not exist",
        ),
    ],
)
def test_bad_input_ends_with_one_line_and_its_exit_code(here, arguments, code, message):
    ended, printed, faults = here(*arguments)
    assert ended == code
    assert message in " ".join(faults.split())
    assert printed == ""


@pytest.mark.thorough
def test_an_unknown_task_is_refused_with_near_names(folder):
    result = cli("-m", "dense", "--tasks", "humanevall,mbpp", cwd=folder)
    assert result.returncode == 2
    assert "unknown task 'humanevall'; did you mean humaneval" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
