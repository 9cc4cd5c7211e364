"""Several processes share the batches of a pruning, and come to what one alone comes to."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from optimum_flab import PruningPlan
from optimum_flab.criteria import NEURONS as CRITERIA
from optimum_flab.families import family_for
from optimum_flab.measuring.dense_outputs import dense_outputs
from optimum_flab.measuring.divergence import OutputHead, final_hidden
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.records.work import Stage, WorkFolder
from optimum_flab.running.processes import LONGEST_WAIT, WAIT, Processes, longest_wait, process_state
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .conftest import (
    LAYERS,
    TEXTS,
    WIDTH,
    byte_level_tokenizer,
    free_port,
    in_two_processes,
    random_tokens,
    reading,
    thorough_but,
    tiny_model,
)


def calibrated(processes):
    """Weights of tokens, final hidden states, and what is narrowed with these weights."""
    model, tokens = tiny_model("llama"), random_tokens(200)
    head = OutputHead(model, family_for(model.config))
    dense = dense_outputs(reading(model, tokens, processes=processes), head, range(LAYERS))
    hidden = final_hidden(reading(model, tokens, processes=processes))
    width = WIDTH // 2
    shared = reading(model, tokens, processes=processes)
    narrowed = decide_neurons(shared, range(LAYERS), [width], CRITERIA["obs"], dense)[width]
    layers = {index: (narrowed[index].kept.tolist(), narrowed[index].weight.tolist()) for index in narrowed}
    return dense.weights.tolist(), hidden.tolist(), layers


def one_of_two(rank, folder):
    processes = Processes(process_state("cpu"))
    own, stage = processes.own_folders(folder)[rank], Stage("number", save_number, load_number)
    made = []
    for kept in (0, 1):  # the second finds what the first left in one process alone
        work = WorkFolder(own, agree=processes.agree)
        value = work.value(stage, {"x": 1}, lambda pieces: made.append(1) or 7)
        if kept == 0 and rank == 1:
            work.drop(["number"])
    mapped = list(processes.map(lambda item: (item, rank), "abcde"))
    assert mapped == [("a", 0), ("b", 1), ("c", 0), ("d", 1), ("e", 0)]
    found = (len(made), value, calibrated(processes), together_in_one_folder(processes, folder / "one"))
    if rank == 1:
        return found, None  # and ends
    with pytest.raises(FlabError) as ended:
        processes.agree(True)
    with pytest.raises(FlabError):
        processes.sum_(torch.ones(1))
    return found, str(ended.value)


def together_in_one_folder(processes, folder):
    """What a stage of which each makes a piece comes to, twice, and how many pieces this process made."""
    work, made = WorkFolder(folder, agree=processes.agree, is_main=processes.is_main, shared=True), []

    def make(pieces):
        def piece(number):
            made.append(number)
            pieces.write(f"{number}", number=number)
            return number

        numbers = list(processes.map(piece, range(3)))
        assert [pieces.finished(f"{number}").facts["number"] for number in numbers] == numbers
        return sum(numbers)

    values = [work.value(Stage("number", save_number, load_number), {"x": 2}, make) for _ in range(2)]
    return values, processes.of_each(len(made))


def save_number(value, folder):
    (folder / "number").write_text(str(value))


def load_number(folder):
    return int((folder / "number").read_text())


def test_two_processes_decide_what_one_decides(tmp_path):
    (one, said), (other, _) = in_two_processes(one_of_two, tmp_path)
    assert one == other
    assert "another process of this run ended" in said
    made, value, (weights, hidden, layers), shared = one
    assert shared == ([3, 3], [2, 1])
    assert (made, value) == (2, 7)  # neither takes what the other does not have
    alone = calibrated(Processes())
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(alone[0]))
    torch.testing.assert_close(torch.tensor(hidden), torch.tensor(alone[1]))
    for index, (kept, weight) in alone[2].items():
        assert layers[index][0] == kept
        torch.testing.assert_close(torch.tensor(layers[index][1]), torch.tensor(weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_main", [True, False])
def test_the_first_of_several_processes_takes_its_folder_first(tmp_path, is_main):
    """So that of two equal runs one waits as a whole."""
    taken = []

    def agree(is_so):
        taken.append(bool(list(tmp_path.glob("*/lock"))))
        return is_so

    work = WorkFolder(tmp_path, agree=agree, is_main=is_main)
    assert work.value(Stage("number", save_number, load_number), {"x": 1}, lambda pieces: 7) == 7
    assert taken == [is_main, True]


def test_processes_that_decided_differently_are_told_so(monkeypatch):
    processes = Processes()
    processes.check_same(1, "numbers")
    monkeypatch.setattr(processes, "of_each", lambda value: [value, 2])
    with pytest.raises(FlabError, match="numbers are not the same in all"):
        processes.check_same(1, "numbers")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("items", [0, 1, 5, 6])
def test_shares_are_all_items_in_turn(number, items):
    shares = []
    for rank in range(number):
        processes = Processes()
        processes.number, processes.rank = number, rank
        shares.append(processes.share(range(items)))
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert Processes().gathered(Processes().share(range(items))) == list(range(items))
    assert list(Processes().map(str, range(items))) == list(map(str, range(items)))


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_how_long_others_are_waited_for_is_refused_unless_it_is_a_time(monkeypatch, minutes):
    assert longest_wait() == LONGEST_WAIT
    monkeypatch.setenv(WAIT, "0.5")
    assert longest_wait() == 0.5
    monkeypatch.setenv(WAIT, minutes)
    with pytest.raises(ConfigurationError, match=f"{WAIT} is '{minutes}'; set it to a number of minutes"):
        longest_wait()


@pytest.mark.parametrize("rank", thorough_but(1, ["0", "1"]))
def test_a_process_that_others_never_join_ends_with_one_line(tmp_path, rank):
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", WAIT: "0.01"}
    launched |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "optimum_flab.recovery", "-m", tmp_path, tmp_path / "out", "--teacher", tmp_path]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **launched}, timeout=200)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert "error: another process of this run ended, or has not been heard from for 0.01 minutes (" in ended.stderr


SIZES = ["--num-hidden-layers", "3", "--intermediate-size", "24"]
SEARCH = ["--target-ratio", "0.3", "--validation-tokens", "256"]


@pytest.mark.thorough
@pytest.mark.parametrize("asked", [SIZES, SEARCH], ids=["sizes", "search"])
def test_the_command_prunes_in_two_processes_as_in_one_and_writes_once(tmp_path, asked):
    tiny_model("llama", 600).save_pretrained(tmp_path / "dense")
    byte_level_tokenizer(600).save_pretrained(tmp_path / "dense")
    (tmp_path / "code.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    words = ["--corpus", f"{tmp_path / 'code.jsonl'}[text]", "--sequence-length", "64", "--calibration-tokens", "512"]
    words += ["--keep-merges", "0", "--ffn-multiple-of", "8", "--batch-size", "2", *asked]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in (("alone", []), ("both", launch)):
        folders = ["-m", str(tmp_path / "dense"), str(tmp_path / name), "--cache-dir", str(tmp_path / "work")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, *start, "-m", "optimum_flab.pruning", *folders, *words],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written to") == 1
        assert not list((tmp_path / "work").rglob("plan-*")), "it is in the checkpoint"
    plans = [PruningPlan.load(tmp_path / name) for name in ("alone", "both")]
    assert plans[0].kept == plans[1].kept
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "both"))
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], atol=1e-4, rtol=1e-4)
