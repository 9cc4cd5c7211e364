import copy
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from optimum_flab import FlabError
from optimum_flab.vocabulary import usage
from optimum_flab.vocabulary.usage import (
    balanced_uses,
    count_corpus,
    count_tokens,
    no_usage,
    pieces_hash,
    segments,
    special_ids,
    token_lists,
    usage_so_far,
)

from ..conftest import byte_level_tokenizer
from .llama_files import llama
from .tiny_tokenizers import CORPUS, TRAINING_TEXTS


TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=12)


def naive(tokenizer, texts):
    return Counter(index for text in texts for index in tokenizer.encode(text, add_special_tokens=False))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, at_once=st.integers(1, 60))
def test_counts_are_exact_however_the_texts_are_chunked(tokenizer, texts, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "CHARACTERS_AT_ONCE", at_once)
        found = count_tokens(tokenizer, texts)
        assert token_lists(tokenizer, texts) == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    expected = naive(tokenizer, texts)
    assert {int(index): int(found.counts[index]) for index in np.flatnonzero(found.counts)} == dict(expected)
    assert found.counts.dtype == np.int64 and len(found.counts) == max(tokenizer.get_vocab().values()) + 1
    assert (found.texts, found.tokens) == (len(texts), sum(expected.values()))
    assert found.bytes == sum(len(text.encode()) for text in texts)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, seed=st.integers(0, 9), at_once=st.integers(1, 60))
def test_a_text_may_count_several_times(tokenizer, texts, seed, at_once):
    times = np.random.default_rng(seed).integers(0, 5, len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "CHARACTERS_AT_ONCE", at_once)
        found = count_tokens(tokenizer, texts, times=times)
    repeated = [text for text, number in zip(texts, times, strict=True) for _ in range(number)]
    assert found.counts.tolist() == count_tokens(tokenizer, repeated).counts.tolist()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, cut=st.integers(0, 12))
def test_usages_of_parts_add_up(tokenizer, texts, cut):
    parts = [count_tokens(tokenizer, part) for part in (texts[:cut], texts[cut:])]
    together, whole = sum(parts, no_usage(tokenizer)), count_tokens(tokenizer, texts)
    assert np.array_equal(together.counts, whole.counts) and together.counts.dtype == np.int64
    sizes = [(one.texts, one.tokens, one.bytes) for one in (together, whole)]
    assert sizes[0] == sizes[1]


def test_no_text_is_read_before_the_usage_of_those_before_it_is_known(tokenizers, monkeypatch):
    monkeypatch.setattr(usage, "CHARACTERS_AT_ONCE", 20)
    tokenizer, read = tokenizers["qwen"], []
    texts = (read.append(text) or text for text in CORPUS)
    begun = count_tokens(tokenizer, ["before"])
    for found in usage_so_far(tokenizer, texts, begun):
        assert found.texts == len(read) + 1
        assert found.bytes == len("before") + sum(len(text.encode()) for text in read)
    assert read == CORPUS and found.texts == len(CORPUS) + 1


def test_the_hash_of_pieces_is_that_of_all_tokenizers_that_cut_alike(tokenizers):
    hashes = {name: pieces_hash(tokenizer) for name, tokenizer in tokenizers.items()}
    assert len(set(hashes.values())) == len(hashes)
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(5)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert pieces_hash(tokenizer) == hashes["byte_level"]
    tokenizer.add_tokens("<more>")
    assert pieces_hash(tokenizer) != hashes["byte_level"]


def test_added_tokens_count_where_the_text_holds_them_only(tokenizers):
    tokenizer = tokenizers["byte_level"]
    found = count_tokens(tokenizer, ["a<|im_start|>b<tool>", "c"])
    start, tool, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<tool>", "<|endoftext|>"])
    assert found.counts[[start, tool, end]].tolist() == [1, 1, 0] and found.tokens == 5


def test_truncation_and_padding_do_not_touch_the_counts(tokenizers):
    tokenizer = tokenizers["gemma"]
    backend = tokenizer.backend_tokenizer
    expected = count_tokens(tokenizer, CORPUS)
    backend.enable_truncation(3, stride=1)
    backend.enable_padding(pad_id=0, pad_token="<pad>", length=64, direction="left")
    before = backend.truncation, backend.padding
    try:
        found = count_tokens(tokenizer, CORPUS)
        assert (backend.truncation, backend.padding) == before
    finally:
        backend.no_truncation()
        backend.no_padding()
    assert np.array_equal(found.counts, expected.counts)


COUNTS = st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(np.array), min_size=1, max_size=4)


@given(counts=COUNTS)
def test_every_source_weighs_alike(counts):
    longest = max(int(part.sum()) for part in counts)
    found = balanced_uses(counts)
    for part in (part for part in counts if part.sum()):
        assert balanced_uses([part, *counts]).sum() == pytest.approx(found.sum() + longest)
    assert np.array_equal(found > 0, sum(counts) > 0)


@given(counts=st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(np.array))
def test_one_source_alone_is_counted_as_it_is(counts):
    assert balanced_uses([counts]) == pytest.approx(counts)


def test_special_ids_are_what_encoding_adds(tokenizers):
    for name, tokenizer in tokenizers.items():
        before, after = special_ids(tokenizer)
        own = tokenizer.encode("return items", add_special_tokens=False)
        assert tokenizer.encode("return items") == [*before, *own, *after], name


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_padding_and_truncation_are_not_what_encoding_adds(tokenizers, side):
    for name, tokenizer in tokenizers.items():
        expected, backend = special_ids(tokenizer), tokenizer.backend_tokenizer
        kept = backend.padding, backend.truncation
        backend.enable_padding(direction=side, length=16)
        assert special_ids(tokenizer) == expected, name
        backend.enable_truncation(2, direction=side)
        assert special_ids(tokenizer) == expected, name
        assert backend.padding["length"] == 16 and backend.truncation["max_length"] == 2
        backend.no_padding()
        backend.no_truncation()
        assert kept == (None, None)


def test_a_tokenizer_without_letters_is_refused():
    backend = Tokenizer(models.BPE({"1": 0}, []))
    with pytest.raises(FlabError, match="makes no tokens of the letter 'a'"):
        special_ids(PreTrainedTokenizerFast(tokenizer_object=backend))


# --- in segments


PIECES = st.sampled_from(
    ["return", " x", "(self", "):\n", "    ", "_a", "don't", "1", "é", "</s>", " ", "\t", "a.b", "Ünï", "=="]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=1, max_size=6))
def test_segments_are_counted_as_whole_texts_are(texts):
    tokenizer = byte_level_tokenizer()
    texts = [text for text in texts if text] or ["x"]
    pattern = segments(tokenizer, texts)
    assert pattern is not None
    assert all("".join(pattern.findall(text)) == text for text in texts)
    found = count_corpus(tokenizer, texts, pattern, len(tokenizer))
    assert found.tolist() == count_tokens(tokenizer, texts).counts.tolist()


def test_tokenizers_that_see_more_than_segments_count_whole_texts():
    """Llama 2 puts a space before every text, and would put one before each segment."""
    tokenizer = llama()
    assert segments(tokenizer, TRAINING_TEXTS) is None
    counts = count_corpus(tokenizer, TRAINING_TEXTS, None, len(tokenizer))
    assert counts.tolist() == count_tokens(tokenizer, TRAINING_TEXTS).counts.tolist()
