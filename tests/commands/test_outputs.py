"""What the verbs do to folders that are there, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from optimum_flab.commands import FlabCommand
from optimum_flab.commands.parser import VerbParser

from ..conftest import flab, write_project


VERBS = {info.name: info.subcommand_class for info in FlabCommand.SUBCOMMANDS}
COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab"]
PRUNE = ["prune", "-m", "model", "-c", "small.yaml"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, "model", "texts")
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("prune -m project/model project", 2, "/project is or holds"),
        ("prune -m project/model project/model", 2, "project/model is or holds"),
        ("prune -m org/name --corpus project/texts/0.py project", 2, "project/texts/0.py, which this run reads"),
        ("apply -m org/name --plan project/small.yaml project", 2, "project/small.yaml, which this run reads"),
        ("prune -m org/name -c project/small.yaml --corpus python-stdlib project", 2, "small.yaml, which this run"),
        ("prune -m org/name project", 1, "which is no part of a pruned model"),
        ("eval -m project/model -o project --tasks perplexity", 2, "project/model, which this run reads"),
        ("eval -m org/name -o project/model --tasks perplexity", 1, "which is no part of an evaluation"),
    ],
)
def test_overwriting_never_deletes_what_is_read_or_is_not_ours(project, arguments, code, message):
    before = files(project)
    ended = flab(*arguments.split(), "--overwrite", cwd=project.parent)
    assert ended[:2] == (code, "") and message in ended.err
    assert files(project) == before


def test_a_pruned_model_is_replaced_when_asked_but_not_by_itself_nor_an_evaluation(project):
    assert flab(*PRUNE, "out", "--intermediate-size", 48, cwd=project).code == 0
    first = files(project / "out")
    assert flab(*PRUNE, "out", "--intermediate-size", 48, "--overwrite", cwd=project).code == 0
    again = files(project / "out")
    assert again.keys() == first.keys() and again["model.safetensors"] == first["model.safetensors"]
    (project / "out" / "flab_evaluation.json").write_text("{}")  # as `flab card --results` copies it
    before = files(project / "out")
    for arguments in ("prune -m out out", "eval -m model -o out --tasks perplexity"):
        code, out, _ = flab(*arguments.split(), "--overwrite", cwd=project)
        assert code in (1, 2) and out == "" and files(project / "out") == before


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_or_the_next_one_clears_it(project, number):
    prune = [*PRUNE, "new/out", "--target-ratio", "0.3"]
    run = subprocess.Popen(
        [*COMMAND, *prune], cwd=project, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert any("Counting tokens" in line for line in run.stderr)
    run.send_signal(signal.SIGSTOP)
    second = flab(*prune, cwd=project)
    assert second.code == 1 and "another run is writing to" in second.err
    run.send_signal(number)
    run.send_signal(signal.SIGCONT)
    run.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert run.returncode == 143 and not (project / "new").exists()
    assert flab(*prune, cwd=project).code == 0
    assert os.listdir(project / "new") == ["out"]
    assert not [name for name in os.listdir(project / "new" / "out") if name.startswith(".")]


def test_a_log_file_gets_lines_and_the_end_says_where_the_result_is(project):
    code, out, err = flab(*PRUNE, "out", "--target-ratio", 0.5, cwd=project)
    assert code == 0 and "\r" not in err and "\x1b" not in err
    lines = [line.partition("] ")[2] for line in err.splitlines() if re.match(r"\[[1-6]/6\] ", line)]
    assert lines[0] == "Reading text" and "pruning takes about 4" in err and "reused" not in err
    shapes = [line for line in lines if line.startswith("Measuring shapes")]
    assert " 0 so far" in shapes[0] and not any("%" in line for line in shapes)
    assert max(sum(line.startswith(word) for line in lines) for word in ("Counting", "Surveying", "Narrowing")) <= 4
    ended = [number for number, line in enumerate(lines) if line.startswith("Surveying")]
    narrowing = [number for number, line in enumerate(lines) if line.startswith("Narrowing")]
    assert ended and narrowing and max(ended) < min(narrowing)
    end, following = out.splitlines()[-1], err.splitlines()[-2:]
    took = re.fullmatch(r"written to out \(model\.safetensors, 0\.\d MB\) in (\d+ s \(.*\))", end)
    assert [words[:2] for words in commands(following)] == [["recover", "out"], ["eval", "out"]]
    assert f"| time of the pruning | {took[1]} |" in (project / "out" / "README.md").read_text(encoding="utf-8")
    assert f"The pruning took {took[1]}." in (project / "out" / "flab_report.html").read_text(encoding="utf-8")


def test_json_is_all_that_is_printed_and_nothing_beside_it_where_it_is_to_be_quiet(project):
    ended = flab("prune", "model", "out", "-c", "small.yaml", "--intermediate-size", 48, "--json", "-q", cwd=project)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (project / "out" / "flab_report.json").read_text(encoding="utf-8")
    refused = flab("prune", "model", "out", "-c", "small.yaml", "--json", "-q", cwd=project)
    assert (refused.code, refused.out) == (1, "") and "out" in refused.err


def commands(lines: Iterable[str]) -> list[list[str]]:
    """The words of the commands that are said to be next, from the verb on, each of which its parser takes."""
    found = [shlex.split(line)[3:] for line in lines if line.startswith("next: optimum-cli flab ")]
    for verb, *words in found:
        parser = VerbParser()
        VERBS[verb].parse_args(parser)
        parser.parse_args(words)
    return found


def test_each_verb_ends_with_commands_that_may_follow_with_the_paths_that_it_was_given(project):
    (project / "model").rename(project / "my model")
    family = {"model_type": "qwen2", "like": "llama", "transformers": ">=4.57", "layer_counts": ["max_window_layers"]}
    (project / "mine.json").write_text(json.dumps(family))
    for arguments, following in (
        (
            "inspect 'my model' --family mine.json --trust-remote-code --target-ratio 0.3",
            [["prune", "my model", "out", "--trust-remote-code", "--family", "mine.json", "--target-ratio", "0.3"]],
        ),
        ("count texts -m 'my model' -o c.npz", [["prune", "my model", "out", "--counts", "c.npz"]]),
        (
            "prune 'my model' 'my out' -c small.yaml",
            [["chat", "my out"], ["eval", "my out", "--baseline", "my model"]],
        ),
        (
            "prune 'my model' 'my file' -c small.yaml --gguf f16",
            [["chat", "my file/my model-pruned-f16.gguf"], ["eval", "my file/my model-pruned-f16.gguf"]],
        ),
        ("card 'my out'", [["push", "my out", "me/my-out"]]),
        ("export 'my out' 'a b.gguf' --type f16 --no-measure", [["chat", "a b.gguf"], ["eval", "a b.gguf"]]),
        (
            "trim 'a b.gguf' small --corpus texts --vocab-size 380",
            [["chat", "small/a b-trimmed.gguf"], ["push", "small", "me/small"]],
        ),
        ("trim 'a b.gguf' c.gguf --corpus texts --vocab-size 380", [["chat", "c.gguf"]]),
        ("apply 'my model' again --plan 'my out'", [["chat", "again"], ["eval", "again"]]),
    ):
        ended = flab(*shlex.split(arguments), cwd=project)
        found = commands(ended.err.splitlines())
        assert [one[: len(begin)] for one, begin in zip(found, following, strict=True)] == following, ended.err


@pytest.mark.thorough
def test_two_runs_differ_in_nothing_but_their_times(project):
    written = []
    for seed in "12":
        folder = project / seed
        folder.mkdir()
        for part in ("model", "texts", "small.yaml"):
            (folder / part).symlink_to(project / part)
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [*COMMAND, *PRUNE, "out", "--target-ratio", "0.5"], cwd=folder, timeout=300, env=env, check=True
        )
        written.append(files(folder / "out"))
    # what a card and a page state of times, and what depends on it
    times = rb"\| time of the pruning .*?\n|checksum \w+|<p>The pruning took.*?</table>"
    for content in written:
        content["flab_report.json"] = {**json.loads(content["flab_report.json"]), "stages": None, "total": None}
        for name in ("README.md", "flab_report.html"):
            content[name] = re.sub(times, b"", content[name], flags=re.DOTALL)
    assert written[0] == written[1]


# --- plans


def test_a_plan_is_applied_by_its_own_verb(project):
    for arguments in (
        [*PRUNE, "out", "--intermediate-size", 48],
        ["apply", "-m", "model", "again", "--plan", "out/flab_plan.json"],
    ):
        assert flab(*arguments, cwd=project).code == 0
    out, again = (files(project / name) for name in ("out", "again"))
    assert again["model.safetensors"] == out["model.safetensors"]
    command = json.loads(again["flab_report.json"])["command"]
    assert command == "optimum-cli flab apply -m model --plan flab_plan.json again"
