"""The dense model's predictions in pruned ids."""

import pytest
import torch

from optimum_flab import FlabError
from optimum_flab.families import family_for
from optimum_flab.recovery.teacher import ROWS_PER_FILE, CachedTeacher, DenseTeacher, cache_bytes
from optimum_flab.texts.packing import PackedTokens

from ..conftest import random_tokens, tiny_model


KEPT = list(range(0, 320, 2))


def teacher() -> DenseTeacher:
    model = tiny_model("qwen2")
    return DenseTeacher(model, family_for(model.config), KEPT)


def tokens(rows: int = ROWS_PER_FILE * 2 + 3) -> PackedTokens:
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


def test_cached_predictions_are_the_likeliest_ones(tmp_path):
    part = tokens()
    cache = CachedTeacher(tmp_path / "new", part, {"dense": "x"}, 7)
    assert len(cache.missing()) == 3
    done = []
    cache.fill(teacher().likeliest, lambda: done.append(1))
    assert not cache.missing() and len(done) == 3
    for row in (0, ROWS_PER_FILE, len(part.input_ids) - 1):
        values, ids = cache.row(row)
        one = PackedTokens(*(t[row : row + 1] for t in (part.input_ids, part.position_ids, part.mask)))
        whole = teacher().log_probabilities(one.input_ids, one.position_ids, torch.ones_like(one.mask))
        top = whole.topk(7)
        torch.testing.assert_close(values.float(), top.values, atol=5e-3, rtol=5e-3)
        assert (ids.long() == top.indices).float().mean() > 0.98
    # float16 keys and int32 ids: what was said before
    assert sum(file.stat().st_size for file in cache.files) == pytest.approx(cache_bytes(part, 7), rel=0.05)


def test_an_interrupted_cache_goes_on_and_a_damaged_file_is_made_again(tmp_path):
    cache = CachedTeacher(tmp_path, tokens(), {"dense": "x"}, 4)
    calls = []

    def interrupted(part, k):
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return teacher().likeliest(part, k)

    with pytest.raises(KeyboardInterrupt):
        cache.fill(interrupted)
    assert cache.missing() == [1, 2]
    cache.files[0].write_bytes(cache.files[0].read_bytes()[:100])
    assert cache.missing() == [0, 1, 2]
    cache.fill(teacher().likeliest)
    assert not cache.missing() and not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("changes", [{"identity": {"dense": "y"}}, {"k": 5}])
def test_other_predictions_have_other_files(tmp_path, changes):
    first = CachedTeacher(tmp_path, tokens(), {"dense": "x"}, 4)
    other = CachedTeacher(tmp_path, tokens(), **{"identity": {"dense": "x"}, "k": 4, **changes})
    assert not set(first.files) & set(other.files)


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FlabError, match="`cache_dir`"):
        CachedTeacher(tmp_path / "file", tokens(1), {}, 4).fill(teacher().likeliest)
