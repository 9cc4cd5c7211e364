"""A pruning that was interrupted goes on where it was, and ends in the same bytes."""

from __future__ import annotations

import gc
import json
import os
import random
import re
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

from optimum_flab import ConfigurationError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.commands.prune import check_apart
from optimum_flab.pruning.texts import divided_texts
from optimum_flab.records import work as work_module
from optimum_flab.records.pieces import Pieces
from optimum_flab.records.work import Stage, WorkFolder
from optimum_flab.running.layer_pass import STREAMS, layer_piece
from optimum_flab.texts.sets import read_texts

from .conftest import TEXTS, byte_level_tokenizer, thorough_but, tiny_model
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
    optimizer.prune(asked(made, **{**ASKED[kind], **more}), cache_dir=cache, resume=resume)
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
def search(made, tmp_path_factory) -> Finished:
    return finished(made, "search", tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def pinned(made, tmp_path_factory) -> Finished:
    return finished(made, "pinned", tmp_path_factory.mktemp("pinned"))


def finished(made: Path, kind: str, folder: Path) -> Finished:
    prune(made, kind, folder / "out", folder / "cache")
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


def pieces_in(folder):
    """How many pieces there are, of which a run may drop some meanwhile."""
    return sum(name.endswith(".safetensors") for _, _, names in os.walk(folder) for name in names)


def test_a_killed_command_ends_in_the_same_bytes(made, search, tmp_path):
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
            while process.poll() is None and pieces_in(kept) < kill_at:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        return process

    killed = run(tmp_path / "home", "out", kill_at=3)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    again = run(tmp_path / "home", "out")
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert "reused from" in said or "resumes after" in said
    assert contents(tmp_path / "out") == search.contents
    # what the checkpoint holds itself is not kept twice
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "home" / "optimum_flab" / "pruning").iterdir()}
    assert names == {"texts", "vocabulary", "shape"}


def test_a_finished_shape_is_used_again_and_said_to_be(made, search, tmp_path, capsys):
    prune(made, "search", tmp_path / "second", search.cache_in(tmp_path))
    said = capsys.readouterr().err
    assert all(f"{stage}: reused from {tmp_path / 'cache'}" in said for stage in ("texts", "vocabulary", "shape"))
    assert "plan: reused" not in said
    assert contents(tmp_path / "second") == search.contents


def test_begun_anew_where_that_is_asked_for(made, pinned, tmp_path, capsys):
    prune(made, "pinned", tmp_path / "second", pinned.cache_in(tmp_path), resume=False)
    assert "reused" not in capsys.readouterr().err
    assert contents(tmp_path / "second") == pinned.contents


def test_work_of_other_inputs_is_told_apart(made, pinned, tmp_path, capsys):
    prune(made, "pinned", tmp_path / "second", pinned.cache_in(tmp_path), seed=1)
    said = capsys.readouterr().err
    assert re.search(r"^texts: computed again, since .*seed is 1, and was 0 in an earlier run", said, re.MULTILINE), (
        said
    )
    prune(made, "pinned", tmp_path / "fresh", tmp_path / "other", seed=1)
    assert contents(tmp_path / "second") == contents(tmp_path / "fresh") != pinned.contents


def test_work_of_another_version_is_begun_anew(made, pinned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(work_module, "FORMAT", 2)
    prune(made, "pinned", tmp_path / "second", pinned.cache_in(tmp_path))
    said = capsys.readouterr().err
    assert "shape: computed again, since format is 2, and was 1 in an earlier run" in said and "reused" not in said
    assert contents(tmp_path / "second") == pinned.contents


@pytest.mark.parametrize("damage", thorough_but(1, ["emptied", "gone", "other"]))
def test_a_damaged_value_is_made_anew(damage, made, pinned, tmp_path, capsys):
    cache = pinned.cache_in(tmp_path)
    for value in cache.glob("*/value"):
        for file in value.iterdir():
            file.unlink() if damage == "gone" else file.write_text("" if damage == "emptied" else '{"shape": 1}')
    prune(made, "pinned", tmp_path / "second", cache)
    said = capsys.readouterr().err
    assert said.count("cannot be read") == 3 and said.count("it is computed again") == 3
    assert contents(tmp_path / "second") == pinned.contents


def test_a_damaged_piece_is_done_again(made, search, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 12)
        prune(made, "search", tmp_path / "out", tmp_path / "cache")
    pieces = list((tmp_path / "cache").rglob("pieces/**/*.safetensors"))
    assert pieces
    for piece in pieces:
        piece.write_bytes(piece.read_bytes()[: piece.stat().st_size // 2])
    prune(made, "search", tmp_path / "out", tmp_path / "cache")
    assert "is damaged; its content is computed again" in capsys.readouterr().err
    assert contents(tmp_path / "out") == search.contents


def test_a_layer_that_is_missing_begins_the_pass_anew(made, pinned, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        pieces = stop_after(patch, None)
        write = Pieces.write

        def stop_at_the_second_layer(self, name, *args, **facts):
            write(self, name, *args, **facts)
            of_plan = self.folder.name == "pieces" and self.folder.parent.name.startswith("plan-")
            if of_plan and name == STREAMS and facts["next"] == 2:
                raise Interrupted

        patch.setattr(Pieces, "write", stop_at_the_second_layer)
        prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert pieces
    (kept,) = (tmp_path / "cache").glob("plan-*/pieces")
    assert (kept / "streams.safetensors").exists()
    (kept / f"{layer_piece(0)}.safetensors").unlink()
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert contents(tmp_path / "out") == pinned.contents


def test_which_source_measures_is_part_of_what_decides(made, tmp_path):
    """Texts that only measure must never be taken for texts that decide."""
    other = tmp_path / "other.jsonl"
    rows = (f"def other_{number}(x):\n    return x * {number} + {number} ** 2\n" * 3 for number in range(40))
    other.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    data = {**DATA, "corpus": [f"{made / 'texts.jsonl'}[text]"]}
    settings = [FlabPrunerConfig(data={**data, name: [f"{other}[text]"]}).data for name in ("calibration", "held_out")]
    assert len({read_texts(one).hash for one in settings}) == 2
    tokenizer = AutoTokenizer.from_pretrained(made / "search")
    kept = WorkFolder(tmp_path / "cache")
    for one in settings:
        fresh = divided_texts(tokenizer, one, 0, WorkFolder(tmp_path / "fresh", resume=False))
        assert divided_texts(tokenizer, one, 0, kept) == fresh
        assert divided_texts(tokenizer, one, 0, kept) == fresh  # from the folder


def test_another_token_that_must_stay_makes_shape_and_plan_anew(made, pinned, tmp_path, capsys):
    model = Path(shutil.copytree(made / "search", tmp_path / "model"))
    named = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**named, "pad_token_id": 571}))
    optimizer = FlabOptimizer.from_pretrained(model, device="cpu")
    optimizer.prune(asked(made, **ASKED["pinned"]), cache_dir=pinned.cache_in(tmp_path))
    optimizer.save_pretrained(tmp_path / "second")
    said = capsys.readouterr().err
    assert "vocabulary: computed again" in said and "shape: computed again" in said, said.splitlines()
    plan = json.loads((tmp_path / "second" / "flab_plan.json").read_text())
    assert 571 in plan["kept_tokens"]


def test_names_of_files_that_are_not_utf8(made, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(TEXTS):
        (corpus / f"{number}.py").write_text(text * 2)
    (corpus / os.fsdecode(b"caf\xe9.py")).write_text(TEXTS[0] + "# more\n")
    data = FlabPrunerConfig(data={**DATA, "corpus": [str(corpus)]}).data
    tokenizer, work = AutoTokenizer.from_pretrained(made / "search"), WorkFolder(tmp_path / "cache")
    assert divided_texts(tokenizer, data, 0, work) == divided_texts(tokenizer, data, 0, work)


def test_a_disk_that_fills_up_costs_only_what_could_be_kept(made, search, tmp_path, capsys):
    optimizer = FlabOptimizer.from_pretrained(made / "search", device="cpu")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # larger files are refused, as by a full disk
    try:
        optimizer.prune(asked(made, **ASKED["search"]), cache_dir=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    optimizer.save_pretrained(tmp_path / "out")
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert contents(tmp_path / "out") == search.contents


def test_what_nobody_asked_for_in_a_month_goes(pinned, tmp_path):
    pinned.cache_in(tmp_path)
    old, recent = sorted((tmp_path / "cache").iterdir())[:2]
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


def test_files_that_changed_places_are_not_taken_for_each_other(made, search, pinned, tmp_path, capsys):
    """Well-formed files of another value, or of another piece."""
    cache = search.cache_in(tmp_path)
    (one,), (other,) = (list(folder.glob("shape-*/value/shape.json")) for folder in (cache, pinned.cache))
    assert one.read_text() != other.read_text()
    one.write_text(other.read_text())
    prune(made, "search", tmp_path / "again", cache)
    assert "it is not as it was written" in capsys.readouterr().err
    assert contents(tmp_path / "again") == search.contents
    pieces = Pieces(tmp_path / "pieces", above=("shape-0",))
    pieces.write("one", number=1)
    pieces.part("inner").write("one", number=2)
    assert pieces.finished("one").facts == {"number": 1}
    (tmp_path / "pieces" / "inner" / "one.safetensors").replace(tmp_path / "pieces" / "one.safetensors")
    assert pieces.read("one") is None and "is damaged" in capsys.readouterr().err


def test_rubbish_in_the_work_folder_is_nobodys_concern(made, tmp_path):
    (tmp_path / "cache" / "shape-yy" / "pieces").mkdir(parents=True)
    (tmp_path / "cache" / "shape-yy" / "inputs.json").write_text("[1]")
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert (tmp_path / "cache" / "notes.txt").exists() and (tmp_path / "cache" / "shape-yy").exists()


def test_the_configuration_that_is_written_is_the_one_that_was_asked_for(made, tmp_path):
    config = asked(made, **ASKED["pinned"])
    optimizer = FlabOptimizer.from_pretrained(made / "search", device="cpu")
    optimizer.prune(config, cache_dir=tmp_path / "cache")
    config.seed = 7
    optimizer.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "flab_config.json").read_text())["seed"] == 0


def test_the_work_folder_and_the_output_are_apart(tmp_path):
    for cache in (tmp_path / "out", tmp_path / "out" / "cache", tmp_path):
        with pytest.raises(ConfigurationError, match="--cache-dir"):
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


def test_where_nothing_can_be_kept_the_run_goes_on(made, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    prune(made, "pinned", tmp_path / "out", tmp_path / "cache")
    assert f"nothing can be saved in {tmp_path / 'cache'}" in capsys.readouterr().err
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
    assert (
        said[0].startswith("number: another run is computing the same in")
        and said[0].endswith("waiting for it")
        and "reused" in said[1]
    )
