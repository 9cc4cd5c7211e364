"""What the verbs do to folders that are there, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import thorough_but, write_project


COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab"]


def flab(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


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
    thorough_but(
        2,
        [
            (
                ["prune", "-m", "project/model", "project"],
                2,
                "output folder project holds project/model, which this run",
            ),
            (["prune", "-m", "project/model", "project/model"], 2, "project/model is project/model, which this run"),
            (
                ["prune", "-m", "org/name", "--corpus", "project/texts/0.py[text]", "project"],
                2,
                "holds project/texts",
            ),
            (["prune", "-m", "org/name", "--plan", "project/small.yaml", "project"], 2, "holds project/small.yaml"),
            (["prune", "-m", "org/name", "project"], 1, "is not a pruned model, since flab_plan.json is missing"),
            (["eval", "-m", "project/model", "-o", "project", "--tasks", "perplexity"], 2, "holds project/model"),
            (["eval", "-m", "org/name", "-o", "project/model", "--tasks", "perplexity"], 1, "is not an evaluation"),
        ],
    ),
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_overwriting_never_deletes_what_is_read_or_is_not_ours(project, arguments, code, message):
    before = files(project)
    result = flab(project.parent, *arguments, "--overwrite")
    assert (result.returncode, result.stdout) == (code, "")
    assert message in result.stderr and "Traceback" not in result.stderr
    assert files(project) == before


@pytest.mark.thorough
def test_a_pruned_model_is_replaced_when_asked_but_not_by_itself_nor_an_evaluation(project):
    prune = ["prune", "-m", "model", "out", "-c", "small.yaml", "--intermediate-size", "48"]
    assert flab(project, *prune).returncode == 0
    first = files(project / "out")
    result = flab(project, *prune, "--overwrite")
    assert result.returncode == 0, result.stderr
    assert files(project / "out").keys() == first.keys()
    assert files(project / "out")["model.safetensors"] == first["model.safetensors"]
    (project / "out" / "flab_evaluation.json").write_text("{}")  # as `flab card --results` copies it
    for arguments in (["prune", "-m", "out", "out"], ["eval", "-m", "model", "-o", "out", "--tasks", "perplexity"]):
        before = files(project / "out")
        result = flab(project, *arguments, "--overwrite")
        assert result.returncode in (1, 2) and result.stdout == "", result.stderr
        assert files(project / "out") == before


@pytest.mark.parametrize("number", thorough_but(1, [signal.SIGTERM, signal.SIGKILL]))
@pytest.mark.thorough
def test_a_run_that_is_ended_leaves_nothing_or_the_next_one_clears_it(project, number):
    prune = [*COMMAND, "prune", "-m", "model", "new/out", "-c", "small.yaml", "--target-ratio", "0.3"]
    run = subprocess.Popen(
        prune, cwd=project, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert any("Counting tokens" in line for line in run.stderr)
    run.send_signal(signal.SIGSTOP)
    second = flab(project, *prune[len(COMMAND) :])
    assert second.returncode == 1 and "another run is writing to output folder new/out" in second.stderr
    run.send_signal(number)
    run.send_signal(signal.SIGCONT)
    run.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert run.returncode == 143 and not (project / "new").exists()
    result = flab(project, *prune[len(COMMAND) :])
    assert result.returncode == 0, result.stderr
    assert os.listdir(project / "new") == ["out"]
    assert not [name for name in os.listdir(project / "new" / "out") if name.startswith(".")]


def test_a_log_file_gets_lines_and_the_end_says_where_the_result_is(project):
    prune = ["prune", "-m", "model", "out", "-c", "small.yaml", "--target-ratio", "0.5"]
    result = flab(project, *prune)
    assert result.returncode == 0, result.stderr
    assert "\r" not in result.stderr and "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    assert max(sum(line.startswith(word) for line in lines) for word in ("Counting", "Ranking", "Narrowing")) <= 4
    ended = [number for number, line in enumerate(lines) if line.startswith("Ranking layers")]
    narrowing = [number for number, line in enumerate(lines) if line.startswith("Narrowing")]
    assert ended and narrowing and max(ended) < min(narrowing)
    assert re.fullmatch(r"written to out in \d+ s", result.stdout.splitlines()[-1])


@pytest.mark.thorough
def test_two_runs_differ_in_nothing_but_their_times(project):
    for name, seed in (("one", "1"), ("two", "2")):
        (project / name).mkdir()
        for part in ("model", "texts", "small.yaml"):
            (project / name / part).symlink_to(project / part)
        result = subprocess.run(
            [*COMMAND, "prune", "-m", "model", "out", "-c", "small.yaml", "--target-ratio", "0.5"],
            cwd=project / name,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=False,
        )
        assert result.returncode == 0, result.stderr
    one, two = (files(project / name / "out") for name in ("one", "two"))
    reports = [json.loads(content.pop("flab_report.json")) for content in (one, two)]
    for report in reports:
        assert report.pop("seconds")
    cards = [content.pop("README.md").decode() for content in (one, two)]
    # the card states the time, and a checksum of what it states
    cards = [re.sub(r"^\| time \| \S+ s,|checksum \w+", "", card, flags=re.MULTILINE) for card in cards]
    assert one == two and reports[0] == reports[1] and cards[0] == cards[1] and "measurements included" in cards[0]


# --- plans


@pytest.mark.thorough
def test_a_plan_is_applied_by_its_own_verb_and_by_the_alias_in_the_same_way(project):
    made = flab(project, "prune", "-m", "model", "out", "-c", "small.yaml", "--intermediate-size", "48")
    assert made.returncode == 0, made.stderr
    applied = flab(project, "apply", "-m", "model", "again", "--plan", "out/flab_plan.json")
    assert applied.returncode == 0, applied.stderr
    alias = flab(project, "prune", "-m", "model", "alias", "--plan", "out")
    assert alias.returncode == 0, alias.stderr
    out, again, other = (files(project / name) for name in ("out", "again", "alias"))
    assert again["model.safetensors"] == other["model.safetensors"] == out["model.safetensors"]
    report = json.loads(again["flab_report.json"])
    assert report["command"] == "optimum-cli flab apply -m model --plan flab_plan.json again"
    alike = {**json.loads(other["flab_report.json"]), "command": None}
    assert {**report, "command": None, "seconds": None} == {**alike, "seconds": None}
    refused = flab(project, "apply", "-m", "model", "third", "--plan", "out", "--seed", "1")
    assert refused.returncode == 2 and "unrecognized arguments: --seed 1" in refused.stderr
    assert not (project / "third").exists()
