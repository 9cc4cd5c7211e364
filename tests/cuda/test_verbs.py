"""Each verb computes on CUDA as it does on the CPU, leaves nothing there, and says in one line where memory ends."""

from __future__ import annotations

import io
import json
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from optimum_flab.evaluation.efficiency import apart
from optimum_flab.pruning.time_budget import measured_pace
from optimum_flab.running.casting import copy_in
from optimum_flab.running.generation import RowsAtOnce, new_tokens

from ..conftest import byte_level_tokenizer, flab, tiny_model, write_project
from ..evaluation.problems import ADD_ONE, TWICE, jsonl
from ..recovery.conftest import problems, write_lines
from .conftest import CARDS, EMULATED, watched


ROOT = Path(__file__).parents[2]
PRUNE = "prune -c small.yaml -m model --target-ratio 0.3"
RECOVER = (
    "recover -m pruned --teacher model --data problems.jsonl --text-share 0 --max-steps 2 --evaluations 1"
    " --batch-size 2 --validation-share 0.2 --max-new-tokens 8 --sequence-length 64 --confirm-run-unsafe-code"
)
EVAL = (
    "eval -m pruned --baseline model --tasks humaneval,divergence --data humaneval=humaneval.jsonl"
    " --data divergence=texts --max-new-tokens 8 --confirm-run-unsafe-code --json"
)
BENCH = "bench -m pruned --prompt-tokens 8 --new-tokens 3 --batch-size 2 --repeats 1 --energy-seconds 0"
CHAT = "chat pruned --baseline model --max-new-tokens 8"
# in all, at most; measured on emulated devices: 1,216, 554, 99, 110 and 192
SYNCHRONISATIONS = {"prune": 1340, "recover": 610, "eval": 110, "bench": 125, "chat": 215}
ROOM = 300_000  # bytes
FOR_ONE_LAYER = 200_000  # with embedding and head, of two


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A dense model, texts and problems, and a pruned model with a GGUF file, by the command."""
    folder = tmp_path_factory.mktemp("project")
    measured_pace(CARDS[0], torch.float32)  # which waits as often as there is time
    write_project(folder, "model", "texts")
    write_lines(folder / "problems.jsonl", problems(8))
    jsonl(folder / "humaneval.jsonl", [TWICE, ADD_ONE])
    said = on_device(folder, f"{PRUNE} pruned --prompt 'def add(a, b):' --gguf q8_0")
    assert said.out.count("def add(a, b):") == 2
    return folder


@pytest.fixture(autouse=True)
def _without_a_terminal(monkeypatch):
    """What a user says; and the process that bench measures in has emulated devices, too."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))
    if EMULATED:
        monkeypatch.setattr(apart, "WORKER", f"import tests.cuda.emulated; {apart.WORKER}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))


def on_device(folder, command):
    """What a verb says that computes on the first device."""
    with watched() as use:
        said = flab(*shlex.split(command), "--device", CARDS[0], cwd=folder)
    assert said.code == 0, said.err
    assert use.left <= 0 and (use.peak[CARDS[0]] > 0 or not EMULATED)
    assert sum(use.synchronisations.values()) <= SYNCHRONISATIONS[command.split()[0]], use.synchronisations
    return said


def on_cpu(folder, command):
    return flab(*shlex.split(command), "--device", "cpu", cwd=folder)


@contextmanager
def only(room):
    """Within this context the first device has so many bytes more than are taken."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CARDS[0]).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated(CARDS[0]) + room) / total, CARDS[0])
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CARDS[0])


def test_recover(project):
    on_device(project, f"{RECOVER} recovered")
    report = json.loads((project / "recovered" / "flab_report.json").read_text(encoding="utf-8"))
    assert report["recovery"]["training"]["steps"] == 2


@pytest.mark.skipif(len(CARDS) == 1, reason="needs two devices")
def test_recover_says_that_it_takes_one_of_several(project):
    without_consent = RECOVER.removesuffix(" --confirm-run-unsafe-code")
    said = {
        name: flab(*shlex.split(f"{without_consent} none --device {name}"), cwd=project) for name in ("auto", "cpu")
    }
    assert all(one.code == 2 and "--confirm-run-unsafe-code" in one.err for one in said.values())
    assert "accelerate launch -m optimum_flab.recovery" in said["auto"].err.splitlines()[0]
    assert "accelerate" not in said["cpu"].err


def scores_of(said):
    """By task and metric, of both models."""
    found = {}
    for row in json.loads(said.out)["scores"]:
        found |= {(row["task"], row["metric"], of): row[of]["value"] for of in ("dense", "pruned") if of in row}
    return found


def test_eval_runs_programs_and_scores_as_on_the_cpu(project):
    there, here = on_device(project, f"{EVAL} --cache-dir there"), on_cpu(project, f"{EVAL} --cache-dir here")
    assert len(scores_of(here)) >= 3
    assert scores_of(there) == pytest.approx(scores_of(here), rel=1e-3)


def test_bench_knows_the_device_and_its_memory(project):
    on_device(project, f"{BENCH} -o bench")
    measured = json.loads((project / "bench" / "flab_efficiency.json").read_text(encoding="utf-8"))
    weights = (project / "pruned" / "model.safetensors").stat().st_size
    assert measured["device"] == str(CARDS[0])
    (model,) = measured["models"].values()
    assert model["peak_cuda_bytes"] > weights


def test_chat_answers_as_on_the_cpu(project, monkeypatch):
    there = on_device(project, CHAT)
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))
    assert there.out == on_cpu(project, CHAT).out


@pytest.mark.skipif(len(CARDS) == 1, reason="needs two devices")
def test_a_model_that_one_device_has_no_room_for_is_spread_over_all(project, monkeypatch):
    one = scores_of(flab(*shlex.split(f"{EVAL} --cache-dir one"), "--device", CARDS[0], cwd=project))
    said = flab(*shlex.split(CHAT), "--device", CARDS[0], cwd=project).out
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (FOR_ONE_LAYER, 10**9))
    with watched() as use:
        assert scores_of(flab(*shlex.split(f"{EVAL} --cache-dir all"), cwd=project)) == one
    assert use.left <= 0 and min(use.peak.values()) > 0
    with watched() as use:
        assert flab(*shlex.split(CHAT), "--device", "auto", cwd=project).out == said
    assert use.left <= 0 and min(use.peak.values()) > 0


@pytest.mark.skipif(EMULATED is None, reason="of emulated devices only")
@pytest.mark.parametrize("command", [f"{PRUNE} none", f"{RECOVER} none", EVAL], ids=["prune", "recover", "eval"])
def test_a_device_without_float64_is_refused_before_weights_are_read(project, monkeypatch, command):
    monkeypatch.setattr(EMULATED, "WITHOUT_FLOAT64", True)
    with watched() as use:
        said = flab(*shlex.split(command), "--device", CARDS[0], cwd=project)
    assert said.code == 2 and "does not compute in float64" in said.err and "use 'cpu'" in said.err
    assert sum(use.taken_there.values()) == 0


@pytest.mark.skipif(EMULATED is None, reason="of emulated devices only")
def test_a_device_without_float64_is_enough_for_programs_answers_and_speed(project, monkeypatch):
    said = on_cpu(project, CHAT).out
    programs = EVAL.replace("humaneval,divergence", "humaneval").replace("--data divergence=texts", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))
    monkeypatch.setattr(EMULATED, "WITHOUT_FLOAT64", True)
    monkeypatch.setattr(apart, "WORKER", f"import tests.cuda.emulated as e; e.WITHOUT_FLOAT64 = True; {apart.WORKER}")
    assert on_device(project, CHAT).out == said
    assert scores_of(on_device(project, f"{programs} --cache-dir without"))
    on_device(project, f"{BENCH} -o without")


def test_export_of_what_was_pruned_there(project):
    assert flab("export", "-m", "pruned", "out.gguf", "--type", "q8_0", cwd=project).code == 0
    (beside,) = (project / "pruned").glob("*.gguf")
    assert beside.read_bytes() == (project / "out.gguf").read_bytes()


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (f"{PRUNE} none --memory-budget 8GB", "a smaller `memory_budget` (--memory-budget)"),
        (f"{RECOVER} none", "a smaller `micro_batch_size` (--micro-batch-size), `gradient_checkpointing` (--gradient"),
        (f"{EVAL} --cache-dir none", "a smaller `batch_size` (--batch-size) or another `device` (--device)"),
        (CHAT, "try another `device` (--device), such as cpu"),
    ],
    ids=["prune", "recover", "eval", "chat"],
)
def test_where_memory_ends_one_line_says_what_to_change(project, command, advice):
    with only(ROOM), watched() as use:
        said = flab(*shlex.split(command), "--device", CARDS[0], cwd=project)
    last = said.err.splitlines()[-1]
    assert said.code == 1 and "Traceback" not in said.err
    assert (
        last.startswith("optimum-cli flab: error: there is too little memory (CUDA out of memory") and advice in last
    )
    assert use.left <= 0


@pytest.mark.skipif(not EMULATED, reason="the memory of a real device is given out in blocks of megabytes")
def test_where_memory_ends_fewer_prompts_are_computed_at_once(capsys):
    tokenizer, prompts = byte_level_tokenizer(600), [[5 + row] * 50 for row in range(4)]
    model = copy_in(tiny_model("llama", vocab_size=608), CARDS[0], torch.float32)
    config = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)

    def run(rows):
        with watched() as use:
            written = RowsAtOnce(rows).run(lambda part, _: new_tokens(model, tokenizer, part, [], config), prompts)
        return written, use.peak[CARDS[0]]

    (_, few), (whole, most) = run(2), run(4)
    assert "out of memory" not in capsys.readouterr().err
    with only((few + most) // 2):
        written, peak = run(4)
    assert written == whole and few <= peak < most
    assert capsys.readouterr().err == "note: out of memory with 4 texts at once; continuing with 2\n"
