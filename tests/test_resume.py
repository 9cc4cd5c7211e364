"""A pruning that was interrupted goes on where it was, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.records import work as work_module
from optimum_flab.records.pieces import Pieces
from optimum_flab.records.work import Stage, WorkFolder

from .conftest import TEXTS, byte_level_tokenizer, tiny_model
from .families.zoo import member


FILES = ("model.safetensors", "config.json", "tokenizer.json", "flab_plan.json", "flab_plan.safetensors")
DATA = {"calibration_tokens": 512, "validation_tokens": 128, "held_out_tokens": 128, "sequence_length": 32}
ASKED = {
    "search": {"target_ratio": 0.4},
    "random": {"target_ratio": 0.3, "ffn": {"criterion": "random", "multiple_of": 4}},
    "pinned": {"layers": {"num_hidden_layers": 3}, "ffn": {"intermediate_size": 32, "multiple_of": 4}},
    "experts": {"experts": {"num_experts": 4}, "ffn": {"intermediate_size": 8, "multiple_of": 8}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model("qwen2", 600, initializer_range=0.1).save_pretrained(folder / "search")
    member("qwen3_moe", 0, vocab_size=600, max_position_embeddings=256).save_pretrained(folder / "experts")
    for name in ("search", "experts"):
        byte_level_tokenizer(600).save_pretrained(folder / name)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    return folder


def asked(made: Path, **settings) -> FlabPrunerConfig:
    data = {**DATA, "corpus": [f"{made / 'texts.jsonl'}[text]"]}
    return FlabPrunerConfig(**{"vocabulary": {"keep_merges": 0}, "ffn": {"multiple_of": 4}, "data": data, **settings})


def prune(made: Path, kind: str, out: Path, cache: Path, resume: bool = True, **more) -> None:
    model = made / ("experts" if kind == "experts" else "search")
    optimizer = FlabOptimizer.from_pretrained(model, device="cpu")
    optimizer.prune(asked(made, **ASKED[kind], **more), cache_dir=cache, resume=resume)
    optimizer.save_pretrained(out, overwrite=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


class Interrupted(BaseException):
    """As a kill is: nothing catches it."""


def stop_after(monkeypatch, number: int | None) -> list[str]:
    """Ends the run once so many pieces are kept; notes those that are."""
    written: list[str] = []
    write = Pieces.write

    def counting(self, name, *args, **facts):
        write(self, name, *args, **facts)
        if self.folder is not None:
            written.append(f"{self.folder.parent.name}/{name}")
            if len(written) == number:
                raise Interrupted

    monkeypatch.setattr(Pieces, "write", counting)
    return written


@pytest.mark.parametrize("kind", ASKED)
def test_a_run_that_ends_after_any_piece_goes_on_there(kind, made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        all_pieces = stop_after(patch, None)
        prune(made, kind, tmp_path / "whole", tmp_path / "cache")
    expected = contents(tmp_path / "whole")
    assert "model.safetensors" in expected
    moments = random.Random(kind).sample(range(1, len(all_pieces)), min(4, len(all_pieces) - 1))
    for moment in moments:
        cache = tmp_path / f"cache-{moment}"
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_after(patch, moment)
            prune(made, kind, tmp_path / "out", cache)
        assert not (tmp_path / "out").exists()
        with monkeypatch.context() as patch:
            pieces = stop_after(patch, None)
            prune(made, kind, tmp_path / "out", cache)
        # a layer may have been interrupted between what was decided about it and the states above it
        assert len(pieces) <= len(all_pieces) - moment + 1, moment
        assert contents(tmp_path / "out") == expected, moment
        shutil.rmtree(tmp_path / "out")


def test_a_killed_command_ends_in_the_same_bytes(made, tmp_path):
    yaml = tmp_path / "asked.yaml"
    asked(made, **ASKED["search"]).save_pretrained(tmp_path)
    yaml = next(tmp_path.glob("*.json"))
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", "prune", "-m", str(made / "search")]
    command += ["-c", str(yaml)]

    def run(home: Path, out: str, kill_at: int | None = None) -> subprocess.Popen:
        environment = {**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, str(tmp_path / out)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if kill_at is not None:
            kept = home / "optimum_flab" / "pruning"
            while process.poll() is None and len(list(kept.rglob("*.safetensors"))) < kill_at:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        return process

    whole = run(tmp_path / "home-whole", "whole")
    assert whole.communicate()[1] is not None and whole.returncode == 0
    killed = run(tmp_path / "home", "out", kill_at=3)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    again = run(tmp_path / "home", "out")
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert "used again from" in said or "goes on after" in said
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    # what the checkpoint holds itself is not kept twice
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "home" / "optimum_flab" / "pruning").iterdir()}
    assert names == {"texts", "vocabulary", "shape"}


def test_a_finished_shape_is_used_again_and_said_to_be(made, tmp_path, capsys):
    prune(made, "search", tmp_path / "first", tmp_path / "cache")
    assert "used again" not in capsys.readouterr().err
    prune(made, "search", tmp_path / "second", tmp_path / "cache")
    said = capsys.readouterr().err
    assert all(f"{stage}: used again from {tmp_path / 'cache'}" in said for stage in ("texts", "vocabulary", "shape"))
    assert "plan: used again" not in said
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_begun_anew_where_that_is_asked_for(made, tmp_path, capsys):
    for name in ("first", "second"):
        prune(made, "pinned", tmp_path / name, tmp_path / "cache", resume=False)
    assert "used again" not in capsys.readouterr().err
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_work_of_other_inputs_is_told_apart(made, tmp_path, capsys):
    prune(made, "pinned", tmp_path / "first", tmp_path / "cache")
    prune(made, "pinned", tmp_path / "second", tmp_path / "cache", seed=1)
    said = capsys.readouterr().err
    assert "texts: made anew, since seed is 1, and was 0 in an earlier run" in said
    prune(made, "pinned", tmp_path / "fresh", tmp_path / "other", seed=1)
    assert contents(tmp_path / "second") == contents(tmp_path / "fresh") != contents(tmp_path / "first")


def test_work_of_another_version_is_begun_anew(made, tmp_path, capsys, monkeypatch):
    prune(made, "pinned", tmp_path / "first", tmp_path / "cache")
    monkeypatch.setattr(work_module, "FORMAT", 2)
    prune(made, "pinned", tmp_path / "second", tmp_path / "cache")
    said = capsys.readouterr().err
    assert "shape: made anew, since format is 2, and was 1 in an earlier run" in said and "used again" not in said
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


@pytest.mark.parametrize("damage", ["emptied", "gone", "other"])
def test_a_damaged_value_is_made_anew(damage, made, tmp_path, capsys):
    prune(made, "pinned", tmp_path / "first", tmp_path / "cache")
    for value in (tmp_path / "cache").glob("*/value"):
        for file in value.iterdir():
            file.unlink() if damage == "gone" else file.write_text("" if damage == "emptied" else '{"shape": 1}')
    prune(made, "pinned", tmp_path / "second", tmp_path / "cache")
    said = capsys.readouterr().err
    assert said.count("cannot be read") == 3 and said.count("it is made anew") == 3
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_a_damaged_piece_is_done_again(made, tmp_path, capsys, monkeypatch):
    prune(made, "search", tmp_path / "whole", tmp_path / "cache-whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 12)
        prune(made, "search", tmp_path / "out", tmp_path / "cache")
    pieces = list((tmp_path / "cache").rglob("pieces/**/*.safetensors"))
    assert pieces
    for piece in pieces:
        piece.write_bytes(piece.read_bytes()[: piece.stat().st_size // 2])
    prune(made, "search", tmp_path / "out", tmp_path / "cache")
    assert "is damaged; what it held is done again" in capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_where_nothing_can_be_kept_the_run_goes_on(made, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert f"nothing can be kept in {tmp_path / 'cache'}" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "cache").is_file()


def test_a_second_run_of_the_same_waits_and_uses_it(tmp_path):
    stage = Stage(
        "number", lambda value, folder: (folder / "n").write_text(str(value)), lambda f: int((f / "n").read_text())
    )
    waiting, began, said, found = threading.Event(), threading.Event(), [], []

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    def slow(pieces: Pieces) -> int:
        began.set()
        assert waiting.wait(60)
        return 7

    first = threading.Thread(target=lambda: found.append(WorkFolder(tmp_path).made(stage, {"a": 1}, slow)))
    first.start()
    assert began.wait(60)
    found.append(WorkFolder(tmp_path, say=say).made(stage, {"a": 1}, lambda pieces: 8))
    first.join()
    assert found == [7, 7]
    assert said[0] == "number: another run is making the same; waiting for it" and "used again" in said[1]
