"""The command line, alone and in two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.records.checksums import SUMS

from ..conftest import flab, free_port, thorough_but
from .conftest import SMALL


def flags(**settings: object) -> list[str]:
    names = {"dtype": "training-dtype"}
    given = {names.get(name, name.replace("_", "-")): value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def command(made, output: str, *extra: str, cache: str = "cache", settings: dict = SMALL) -> list[str]:
    names = [word for name in ("problems.jsonl", "alpaca.json") for word in ("--data", str(made / name))]
    folders = ["-m", str(made / "pruned"), str(made / output), "--teacher", str(made / "dense")]
    asked = flags(**{**settings, "max_steps": 4, "answers": "reference"})
    return [*folders, *names, "--cache-dir", str(made / cache), *asked, *extra]


def environment(made: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(made / "home")}


def run(made: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, env=environment(made), timeout=300)


def curve(folder) -> list[dict[str, float]]:
    rows = json.loads((folder / "flab_report.json").read_text())["recovery"]["training"]["curve"]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def same_but_for_rounding(one: Path, other: Path, atol: float) -> None:
    for first, second in zip(curve(one), curve(other), strict=True):
        assert first == pytest.approx(second, rel=1e-3), (curve(one), curve(other))
    stored = load_file(other / "model.safetensors")
    for name, weight in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(weight, stored[name], atol=atol, rtol=1e-3)


def has_checkpoint(cache: Path) -> bool:
    """Whether the first is whole; a run may rename its folders meanwhile."""
    return any(Path(folder).name == "checkpoint-2" and SUMS in names for folder, _, names in os.walk(cache))


def kill_at_checkpoint(made: Path, words: list[str], cache: str) -> None:
    """Ends every process of a run, by a signal that none can handle, once the first checkpoint is whole."""
    started = subprocess.Popen(words, env=environment(made), stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 200
    while started.poll() is None and time.monotonic() < end and not has_checkpoint(made / cache):
        time.sleep(0.05)
    workers = psutil.Process(started.pid).children(recursive=True)
    for process in [psutil.Process(started.pid), *workers]:
        process.kill()
    assert started.wait() == -signal.SIGKILL
    psutil.wait_procs(workers)


@pytest.mark.parametrize("method", thorough_but(1, ["full", "lora"]))
def test_processes_that_share_the_weights_train_as_one(made, method):
    words = ["--method", method, "--max-steps", "6", "--evaluations", "3", "--answers", "reference"]
    options = {**SMALL, **({"rank": None, "learning_rate": 1e-3} if method == "full" else {})}
    words += ["--gradient-checkpointing"] * (method == "full")
    alone, both = (
        [*command(made, name, cache=f"cache-{name}", settings=options), *words] for name in ("alone", "both")
    )
    done = run(made, sys.executable, "-m", "optimum_flab.recovery", *alone)
    assert done.returncode == 0, done.stderr
    sharded = [*LAUNCH, "2", "-m", "optimum_flab.recovery", *both, "--shard"]
    if method == "full":
        kill_at_checkpoint(made, sharded, "cache-both")
    done = run(made, *sharded)
    assert done.returncode == 0 and ("resumes after" in done.stderr) == (method == "full"), done.stderr
    assert json.loads((made / "both" / "flab_report.json").read_text())["recovery"]["training"]["best_step"]
    same_but_for_rounding(made / "alone", made / "both", atol=1e-4)


@pytest.mark.thorough
def test_two_processes_train_as_one_and_write_once(made):
    # the loss falls by the update of each step, so that gradients of one process alone would show
    more = ["--max-steps", "12", "--evaluations", "4", "--patience", "9"]
    alone = run(made, sys.executable, "-m", "optimum_flab.recovery", *command(made, "alone", *more))
    assert alone.returncode == 0, alone.stderr
    assert "{" not in alone.stdout  # the summary alone
    assert "divergence" in alone.stdout and "set aside=" in alone.stderr and "training takes about" in alone.stderr
    # without MPI, `accelerate launch` starts one process on a CPU, and leaves more to torchrun
    both = run(made, *LAUNCH, "2", "-m", "optimum_flab.recovery", *command(made, "both", *more, cache="other"))
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("Recovery on") == 1
    same_but_for_rounding(made / "alone", made / "both", atol=2e-4)
    report = json.loads((made / "both" / "flab_report.json").read_text())
    assert report["recovery"]["training"]["processes"] == 2
    assert report["recovery"]["command"].startswith("optimum-cli flab recover -m ")
    assert str(made) not in report["recovery"]["command"]
    assert weights_hash(AutoModelForCausalLM.from_pretrained(made / "both")) == report["weights_sha256"]


def of_preparation(cache: Path) -> dict[str, tuple]:
    """What the dense model wrote, the verdicts, the rows and its predictions, by file."""
    kept = ("answers/*/*.safetensors", "rows-*/value/*.safetensors", "predictions-*/value/*.safetensors")
    content = {}
    for path in (path for pattern in kept for path in cache.glob(pattern)):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}
            content[path.relative_to(cache).as_posix()] = (file.metadata(), tensors)
    return content


ANSWERED = ["--answers", "dense", "--confirm-run-unsafe-code", "--generation-batch-size", "8"]
SAMPLED = ["--text-share", "0.3"]  # the dense model also writes text of its own


@pytest.mark.thorough
def test_two_processes_prepare_the_bytes_that_one_prepares(made):
    alone = run(made, sys.executable, "-m", "optimum_flab.recovery", *command(made, "alone", *ANSWERED, *SAMPLED))
    assert alone.returncode == 0, alone.stderr
    words = command(made, "both", *ANSWERED, *SAMPLED, cache="other")
    both = run(made, *LAUNCH, "2", "-m", "optimum_flab.recovery", *words)
    assert both.returncode == 0, both.stderr
    one, other = (of_preparation(made / name) for name in ("cache", "other"))
    assert {name.partition("/")[0].partition("-")[0] for name in one} == {"answers", "rows", "predictions"}
    # of a round the last batches may be more than one process would have asked for
    assert all(other[name] == content for name, content in one.items())
    assert {name for name in other if name not in one} <= {name for name in other if name.startswith("answers/")}
    first, second = (
        json.loads((made / name / "flab_report.json").read_text())["recovery"] for name in ("alone", "both")
    )
    assert first["data"] == second["data"] and first["held_out_before"] == second["held_out_before"]


def one_of_two(made: Path, rank: int, port: int, words: list[str]) -> subprocess.Popen:
    """A process that launchers would start, whose output is `rank-N.txt`."""
    launched = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "FLAB_LONGEST_WAIT": "0.5"}
    with (made / f"rank-{rank}.txt").open("w") as said:
        return subprocess.Popen(words, stdout=said, stderr=said, env={**environment(made), **launched})


@pytest.mark.thorough  # a minute each; tests/test_processes.py has one that others never join
@pytest.mark.parametrize(
    "phase, lost, sent",
    [
        ("answers", 1, signal.SIGSTOP),
        ("answers", 0, signal.SIGSTOP),
        ("answers", 0, signal.SIGKILL),
        ("training", 0, signal.SIGSTOP),
        ("training", 1, signal.SIGSTOP),
        ("training", 1, signal.SIGKILL),
    ],
)
def test_a_process_that_hangs_or_dies_ends_the_other_in_the_stated_time(made, phase, lost, sent):
    words = [sys.executable, "-m", "optimum_flab.recovery", *command(made, "out", *ANSWERED), "--max-steps", "6"]
    words += ["--evaluations", "3"]  # the first checkpoint is that of step 2
    port, cache = free_port(), made / "cache"
    processes = [one_of_two(made, rank, port, words) for rank in range(2)]
    try:
        end = time.monotonic() + 200
        while not (has_checkpoint(cache) if phase == "training" else list(cache.glob("answers/*/*"))):
            assert all(one.poll() is None for one in processes) and time.monotonic() < end
            time.sleep(0.02)
        processes[lost].send_signal(sent)
        assert processes[1 - lost].wait(timeout=90) == 1
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = (made / f"rank-{1 - lost}.txt").read_text()
    assert "error: another process of this run ended, or has not been heard from for 0.5 minutes" in said, said
    assert "Traceback" not in said and not (made / "out" / "config.json").exists(), said
    done = run(made, *words)
    assert done.returncode == 0, done.stderr
    assert ("training resumes after" in done.stderr) == (phase == "training"), done.stderr


@pytest.mark.thorough
def test_processes_with_other_settings_are_told_so(made):
    words = [sys.executable, "-m", "optimum_flab.recovery", *command(made, "out")]
    port = free_port()
    processes = [one_of_two(made, rank, port, [*words, "--seed", str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=200) for process in processes] == [1, 1]
    for rank in range(2):
        assert "error: the pruned model and the settings are not the same" in (made / f"rank-{rank}.txt").read_text()


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["--exclude", "nowhere.jsonl"], 1, "does not exist"),
        (["--micro-batch-size", "3"], 2, "does not divide"),
        (["--answers", "dense"], 2, "--confirm-run-unsafe-code"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_usage_is_one_line_before_any_model_is_read(made, words, code, message):
    (made / "dense" / "model.safetensors").unlink()
    ended = flab("recover", *command(made, "out"), *words)
    assert ended.code == code and message in ended.err
    assert not (made / "out").exists()


def test_a_folder_without_a_plan_is_refused(made):
    (made / "pruned" / "flab_plan.json").unlink()
    ended = flab("recover", *command(made, "out"))
    assert ended.code == 2 and "is not a complete pruned model, since it lacks flab_plan.json" in ended.err


def test_the_pruned_model_itself_is_never_overwritten(made):
    ended = flab("recover", *command(made, "pruned"), "--overwrite")
    assert ended.code == 2 and "which this run reads and would replace" in ended.err
    assert (made / "pruned" / "model.safetensors").is_file()


def test_prune_and_recover_are_one_command(made):
    settings = {
        **json.loads((made / "pruned" / "flab_config.json").read_text()),
        "recovery": {
            **SMALL,
            "data": [str(made / "alpaca.json")],
            "max_steps": 2,
            "answers": "reference",
        },
    }
    (made / "flab.json").write_text(json.dumps(settings))
    ended = flab("prune", "-m", made / "dense", made / "both", "-c", made / "flab.json")
    assert ended.code == 0, ended.err
    assert "Recovery on" in ended.out
    report = json.loads((made / "both" / "flab_report.json").read_text())
    assert report["recovery"]["training"]["steps_done"] == 2
