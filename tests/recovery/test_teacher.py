"""The dense model's predictions in pruned ids."""

import errno
import os
from functools import partial

import pytest
import torch

from optimum_flab import FlabError
from optimum_flab.families import family_for
from optimum_flab.records import pieces as pieces_module
from optimum_flab.records.pieces import Pieces
from optimum_flab.recovery.teacher import PREDICTIONS, ROWS_PER_PART, DenseTeacher, predict, prediction_bytes
from optimum_flab.running.processes import Processes
from optimum_flab.texts.packing import PackedTokens

from ..conftest import random_tokens, tiny_model


KEPT = list(range(0, 320, 2))


def teacher() -> DenseTeacher:
    model = tiny_model("qwen2")
    return DenseTeacher(model, family_for(model.config), KEPT)


def tokens(rows: int = ROWS_PER_PART * 2 + 3) -> PackedTokens:
    found = random_tokens(documents=400, vocabulary=len(KEPT))
    return next(found.batches(rows))


def test_predictions_are_those_of_the_dense_model_renormalised_on_the_kept_vocabulary():
    batch = tokens(2)
    wanted = batch.mask
    found = teacher().log_probabilities(batch.input_ids, batch.position_ids, wanted)
    ids = torch.tensor(KEPT)[batch.input_ids]
    model = tiny_model("qwen2")
    logits = model(input_ids=ids, position_ids=batch.position_ids, attention_mask=None, use_cache=False).logits
    torch.testing.assert_close(found, logits[wanted][:, KEPT].log_softmax(dim=-1), atol=1e-4, rtol=1e-4)


def without_links(*names):
    raise PermissionError


@pytest.mark.parametrize("link", [os.link, without_links])
def test_saved_predictions_are_the_likeliest_ones_and_are_read_again(link, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", link)
    part, done = tokens(), []
    made = predict(partial(teacher().likeliest, k=7), part, Pieces(tmp_path), lambda: done.append(1), Processes())
    assert len(done) == len(made.parts) == 3
    (tmp_path / "value").mkdir()
    file = tmp_path / "0.safetensors"
    node = file.stat().st_ino
    PREDICTIONS.save({"training": made}, tmp_path / "value")
    assert (tmp_path / "value" / "training-0.safetensors").stat().st_ino == node  # not a second time
    file.unlink(missing_ok=True)  # they stay readable
    for found in (made, PREDICTIONS.load(tmp_path / "value")["training"]):
        for row in (0, ROWS_PER_PART, len(part.input_ids) - 1):
            values, ids = found.row(row)
            one = part.rows(row, row + 1)
            whole = teacher().log_probabilities(one.input_ids, one.position_ids, torch.ones_like(one.mask))
            top = whole.topk(7)
            torch.testing.assert_close(values.float(), top.values, atol=5e-3, rtol=5e-3)
            assert (ids.long() == top.indices).float().mean() > 0.98
    # float16 values and int32 ids: what was said before
    size = sum(file.stat().st_size for file in (tmp_path / "value").iterdir())
    assert size == pytest.approx(prediction_bytes(part, 7), rel=0.05)


def test_of_a_small_vocabulary_there_are_no_more_than_all():
    assert teacher().likeliest(tokens(2), 10_000)["ids"].shape[-1] == len(KEPT)


def test_predictions_that_were_interrupted_go_on(tmp_path):
    calls = []

    def interrupted(part):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return teacher().likeliest(part, 4)

    with pytest.raises(KeyboardInterrupt):
        predict(interrupted, tokens(), Pieces(tmp_path), lambda: None, Processes())
    predict(interrupted, tokens(), Pieces(tmp_path), lambda: None, Processes())
    assert len(calls) == 4 and not list(tmp_path.glob("*.partial*"))


def test_a_disk_that_is_full_of_predictions_is_said_with_the_way_out(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pieces_module, "write_atomically", full)
    with pytest.raises(FlabError, match="No space left on device.*, or use `recovery.teacher` resident$"):
        predict(partial(teacher().likeliest, k=4), tokens(), Pieces(tmp_path), lambda: None, Processes())
