"""A pruning that was interrupted goes on where it was, and ends in the same bytes."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType

import pytest
from transformers import AutoTokenizer

from optimum_flab import ConfigurationError, FlabError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.commands.prune import check_apart
from optimum_flab.records import work as work_module
from optimum_flab.records.pieces import Pieces
from optimum_flab.records.work import Stage, WorkFolder
from optimum_flab.running import layer_pass
from optimum_flab.running.layer_pass import STREAMS, layer_piece
from optimum_flab.texts.sets import read_text_sets

from .conftest import TEXTS, byte_level_tokenizer, thorough_but, tiny_model
from .families.zoo import member


FILES = ("model.safetensors", "config.json", "tokenizer.json", "flab_plan.json", "flab_plan.safetensors")
DATA = {"calibration_tokens": 512, "validation_tokens": 128, "held_out_tokens": 128, "sequence_length": 32}
ASKED = {
    "search": {"target_ratio": 0.4},
    "random": {"target_ratio": 0.3, "ffn": {"criterion": "random", "multiple_of": 4}},
    "pinned": {"num_hidden_layers": 3, "intermediate_size": 32, "ffn": {"multiple_of": 4}},
    "experts": {"num_experts": 4, "intermediate_size": 8, "ffn": {"multiple_of": 8}},
}


@pytest.fixture(autouse=True)
def streams_after_every_layer(monkeypatch):
    monkeypatch.setattr(layer_pass, "SECONDS_LOST", 0)


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


def prune(made: Path, kind: str, out: Path, cache: Path) -> None:
    model = made / ("experts" if kind == "experts" else "search")
    optimizer = FlabOptimizer.from_pretrained(model, device="cpu")
    optimizer.prune(asked(made, **ASKED[kind]), cache_dir=cache)
    optimizer.save_pretrained(out, overwrite=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


@dataclass(frozen=True)
class Finished:
    """A run that was not interrupted, and what it kept."""

    contents: dict[str, bytes]
    cache: Path

    def cache_in(self, folder: Path) -> Path:
        """A copy of what it kept, which a test may change."""
        return Path(shutil.copytree(self.cache, folder / "cache"))


@pytest.fixture(scope="module")
def pinned(made, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("pinned")
    prune(made, "pinned", folder / "out", folder / "cache")
    return Finished(contents(folder / "out"), folder / "cache")


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


@pytest.mark.parametrize("kind", thorough_but(0, list(ASKED)))
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


def damage(path: Path, how: str, other: Path, rng: random.Random) -> None:
    """What a disk or a hand may do to a file."""
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes({"cut": content[: len(content) // 2], "emptied": b""}.get(how, bytes(content)))
    if how == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)


@pytest.mark.parametrize("seed", thorough_but(1, list(range(8))))
def test_what_was_damaged_is_never_used(seed, made, tmp_path, monkeypatch):
    rng, kind = random.Random(seed), list(ASKED)[seed % len(ASKED)]
    with monkeypatch.context() as patch:
        pieces = stop_after(patch, None)
        prune(made, kind, tmp_path / "whole", tmp_path / "finished")
    expected = contents(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, rng.randrange(1, len(pieces)))
        prune(made, kind, tmp_path / "out", tmp_path / "begun")
    for state in ("finished", "begun"):
        for how in ("flipped", "flipped", "cut", "emptied", "swapped"):
            cache = Path(shutil.copytree(tmp_path / state, tmp_path / "cache"))
            files = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
            damaged, other = rng.sample(files, 2)
            damage(damaged, how, other, rng)
            prune(made, kind, tmp_path / "out", cache)
            assert contents(tmp_path / "out") == expected, (state, how, damaged, other)
            shutil.rmtree(cache)


def pieces_in(folder):
    """How many pieces there are, of which a run may drop some meanwhile."""
    return sum(name.endswith(".safetensors") for _, _, names in os.walk(folder) for name in names)


def test_a_killed_command_ends_in_the_same_bytes(made, pinned, tmp_path, capsys):
    asked(made, **ASKED["pinned"]).save_pretrained(tmp_path)
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", "prune", "-m", made / "search"]
    command += [tmp_path / "out", "-c", tmp_path / "flab_config.json", "--cache-dir", tmp_path / "cache"]
    run = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while run.poll() is None and pieces_in(tmp_path / "cache") < 3:
        time.sleep(0.01)
    run.kill()
    assert run.wait() == -signal.SIGKILL and not (tmp_path / "out" / "config.json").exists()
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    said = capsys.readouterr().err
    assert any(words in said for words in ("reused from", "resumes after", "it is computed again"))
    assert contents(tmp_path / "out") == pinned.contents
    # what the checkpoint holds itself is not kept twice
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").iterdir()}
    assert names - {"answers"} == {"vocabulary", "shape"}


def test_a_finished_shape_is_used_again_and_said_to_be(made, pinned, tmp_path, capsys):
    prune(made, "pinned", tmp_path / "second", pinned.cache_in(tmp_path))
    said = capsys.readouterr().err
    assert all(f"{stage}: reused from {tmp_path / 'cache'}" in said for stage in ("vocabulary", "shape"))
    assert "plan: reused" not in said
    assert contents(tmp_path / "second") == pinned.contents


def test_files_are_measured_on_the_text_of_the_report_whether_or_not_that_was_measured_now(made, tmp_path, capsys):
    for said in ((), ("held-out: reused",)):
        optimizer = FlabOptimizer.from_pretrained(made / "search", device="cpu")
        pruned = optimizer.prune(asked(made, **ASKED["pinned"]), cache_dir=tmp_path / "cache")
        assert all(words in capsys.readouterr().err for words in said)
        found = pruned.reference().measure(pruned.model)
        assert found == pruned.report.held_out.model_copy(update={"by_layer": ()})


def test_a_damaged_piece_is_done_again(made, pinned, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 6)
        prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    pieces = list((tmp_path / "cache").rglob("pieces/**/*.safetensors"))
    assert pieces
    for piece in pieces:
        piece.write_bytes(piece.read_bytes()[: piece.stat().st_size // 2])
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert "is damaged; its content is computed again" in capsys.readouterr().err
    assert contents(tmp_path / "out") == pinned.contents


def test_a_layer_that_is_missing_begins_the_pass_anew(made, pinned, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        pieces = stop_after(patch, None)
        write = Pieces.write

        def stop_at_the_second_layer(self, name, *args, **facts):
            write(self, name, *args, **facts)
            of_plan = self.folder.parent.parent.name.startswith("plan-") and self.folder.name == "neurons"
            if of_plan and name == STREAMS and facts["done"] == 2:
                raise Interrupted

        patch.setattr(Pieces, "write", stop_at_the_second_layer)
        prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert pieces
    (kept,) = (tmp_path / "cache").glob("plan-*/pieces/neurons")
    assert (kept / "streams.safetensors").exists()
    (kept / f"{layer_piece(0)}.safetensors").unlink()
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert contents(tmp_path / "out") == pinned.contents


def test_another_token_that_must_stay_makes_shape_and_plan_anew(made, pinned, tmp_path, capsys):
    model = Path(shutil.copytree(made / "search", tmp_path / "model"))
    named = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**named, "pad_token_id": 571}))
    optimizer = FlabOptimizer.from_pretrained(model, device="cpu")
    optimizer.prune(asked(made, **ASKED["pinned"]), cache_dir=pinned.cache_in(tmp_path))
    optimizer.save_pretrained(tmp_path / "second")
    said = capsys.readouterr().err
    assert "vocabulary: reused" in said and "shape: reused" not in said, said
    plan = json.loads((tmp_path / "second" / "flab_plan.json").read_text())
    assert 571 in plan["kept"]["vocab"]


def test_names_of_files_that_are_not_utf8(made, tmp_path):
    corpus = tmp_path / os.fsdecode(b"caf\xe9")
    corpus.mkdir()
    for number, text in enumerate(TEXTS):
        (corpus / f"{number}.py").write_text(text * 2)
    data = FlabPrunerConfig(data={**DATA, "corpus": [str(corpus)]}).data
    assert read_text_sets(AutoTokenizer.from_pretrained(made / "search"), data, 0).deciding_hash


def test_a_disk_that_fills_up_ends_a_run_that_goes_on_once_there_is_room(made, pinned, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))  # larger files are refused, as by a full disk
    try:
        with pytest.raises(FlabError, match="cannot be written .*; free some space"):
            prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert contents(tmp_path / "out") == pinned.contents


def test_what_nobody_asked_for_in_a_month_goes(pinned, tmp_path):
    pinned.cache_in(tmp_path)
    old, recent = sorted(path for path in (tmp_path / "cache").iterdir() if path.name != "answers")[:2]
    theirs, linked = tmp_path / "cache" / "thesis", tmp_path / "cache" / "shape-0123456789abcdef"
    (tmp_path / "elsewhere").mkdir()
    theirs.mkdir()
    linked.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for folder in (theirs, tmp_path / "elsewhere"):
        (folder / "chapter").write_text("not ours")
        os.utime(folder, (0, 0))
    month = time.time() - 31 * 24 * 3600
    os.utime(old, (month, month))
    WorkFolder(tmp_path / "cache")
    assert not old.exists() and recent.exists()
    assert os.listdir(theirs) == os.listdir(linked) == ["chapter"]  # what is not a kept value stays as it is


def test_the_configuration_that_is_written_is_the_one_that_was_asked_for(made, tmp_path):
    config = asked(made, **ASKED["pinned"])
    optimizer = FlabOptimizer.from_pretrained(made / "search", device="cpu")
    optimizer.prune(config, cache_dir=tmp_path / "cache")
    config.seed = 7
    optimizer.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "flab_config.json").read_text())["seed"] == 0


def test_the_work_folder_and_the_output_are_apart(tmp_path):
    for cache in (tmp_path / "out", tmp_path / "out" / "cache"):
        with pytest.raises(ConfigurationError, match="is in the output folder"):
            check_apart(tmp_path / "out", cache)
    check_apart(tmp_path / "out", tmp_path / "cache")
    check_apart(tmp_path / "out", None)


def test_no_ranking_is_left_to_the_collector(made, tmp_path):
    """What interrupts a run while memory is given back is lost inside of a generator that is collected there."""
    optimizer = FlabOptimizer.from_pretrained(made / "search", device="cpu")
    gc.collect()
    gc.disable()
    try:
        optimizer.prune(asked(made, **ASKED["search"]), cache_dir=tmp_path / "cache")
        begun = [one for one in gc.get_objects() if isinstance(one, GeneratorType) and one.gi_frame is not None]
        assert not [one for one in begun if "optimum_flab/pruning" in one.gi_code.co_filename]
    finally:
        gc.enable()


# --- any stage


def save_number(value, folder):
    (folder / "n").write_text(str(value))


NUMBER = Stage("number", save_number, lambda folder: int((folder / "n").read_text()))


def number(root, value, resume=True, **inputs):
    return WorkFolder(root, resume=resume).value(NUMBER, {"model": "m", **inputs}, lambda pieces: value)


def test_a_value_is_computed_once_unless_it_is_asked_for_anew(tmp_path, capsys):
    assert [number(tmp_path, value, seed=0) for value in (7, 8)] == [7, 7]
    assert capsys.readouterr().err.startswith(f"number: reused from {tmp_path}")
    once = WorkFolder(tmp_path)
    assert [once.value(NUMBER, {"seed": 1}, lambda pieces: 7) for _ in range(2)] == [7, 7]
    assert capsys.readouterr().err == ""
    assert number(tmp_path, 8, seed=0, resume=False) == number(tmp_path, 9, seed=0) == 8


def test_what_was_computed_with_other_inputs_or_code_is_not_used(tmp_path, monkeypatch):
    number(tmp_path, 7, seed=0)
    assert number(tmp_path, 8, seed=1) == 8
    monkeypatch.setattr(work_module, "code_hash", lambda: "other")
    assert number(tmp_path, 9, seed=1) == 9


@pytest.mark.parametrize("file", ["n", "cost.json"])
@pytest.mark.parametrize("damage", [lambda file: file.write_text(""), Path.unlink])
def test_a_damaged_value_is_made_anew(damage, file, tmp_path, capsys):
    number(tmp_path, 7)
    damage(next(tmp_path.glob(f"number-*/value/{file}")))
    assert number(tmp_path, 8) == 8
    said = capsys.readouterr().err
    assert "cannot be read" in said and "it is computed again" in said


def test_rubbish_in_the_work_folder_is_nobodys_concern(tmp_path):
    (tmp_path / "number-yy" / "pieces").mkdir(parents=True)
    (tmp_path / "number-yy" / "inputs.json").write_text("[1]")
    (tmp_path / "notes.txt").write_text("mine")
    assert number(tmp_path, 7) == 7
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "number-yy").exists()


def test_where_nothing_can_be_kept_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert number(tmp_path / "cache", 7) == 7
    assert f"nothing can be saved in {tmp_path / 'cache'}" in capsys.readouterr().err
    assert (tmp_path / "cache").is_file()


def test_what_a_folder_has_that_can_only_be_read_is_used(tmp_path, monkeypatch, capsys):
    number(tmp_path, 7)

    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(work_module.tempfile, "TemporaryFile", refuse)
    assert number(tmp_path, 8) == 7 and "reused from" in capsys.readouterr().err
    (saved,) = tmp_path.glob("number-*/value/n")
    saved.write_text("9")
    assert number(tmp_path, 8) == 8 and "n is not as it was written" in capsys.readouterr().err
    assert saved.read_text() == "9"


def test_a_folder_that_may_not_be_looked_into_is_none(tmp_path, monkeypatch, capsys):
    cache, stat = tmp_path / "cache", os.stat
    number(cache, 7)

    def refuse(path, *args, **kwargs):
        if str(path).startswith(f"{cache}{os.sep}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)  # root may look everywhere
    monkeypatch.setattr(work_module.tempfile, "TemporaryFile", lambda **_: refuse(f"{cache}{os.sep}"))
    assert number(cache, 8) == 8 and "nothing can be saved" in capsys.readouterr().err


def test_a_second_run_of_the_same_waits_and_uses_it(tmp_path, monkeypatch):
    waiting, began, said, results = threading.Event(), threading.Event(), [], []

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    def slow(pieces: Pieces) -> int:
        began.set()
        assert waiting.wait(60)
        return 7

    first = threading.Thread(target=lambda: results.append(WorkFolder(tmp_path).value(NUMBER, {"a": 1}, slow)))
    first.start()
    assert began.wait(60)
    monkeypatch.setattr(work_module, "say", say)
    results.append(WorkFolder(tmp_path).value(NUMBER, {"a": 1}, lambda pieces: 8))
    first.join()
    assert results == [7, 7] and "reused" in said[1]
    assert said[0].startswith("number: another run is computing the same in") and said[0].endswith("waiting for it")
