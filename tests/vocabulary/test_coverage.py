"""The share of a corpus that stays whole."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_flab.pruning import vocabulary
from optimum_flab.pruning.vocabulary import TokenChoice, counted_tokens, source_counts
from optimum_flab.records.work import WorkFolder
from optimum_flab.settings.components import VocabularySettings
from optimum_flab.texts.sources import Document
from optimum_flab.utils.places import cache_root
from optimum_flab.vocabulary.closure import (
    covering,
    natural_vocabulary,
    read_spec,
    shrink,
    with_ancestors,
    with_prior_uses,
)
from optimum_flab.vocabulary.usage import count_tokens

from .tiny_tokenizers import CORPUS, TRAINING_TEXTS


TEXTS = [*CORPUS, *TRAINING_TEXTS]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    coverage=st.floats(0.01, 1),
    merges=st.sampled_from([0, 40]),
    ranking=st.sampled_from(["uses", "prior", "other"]),
    seed=st.integers(0, 99),
)
def test_the_least_used_go_until_the_share_is_met(tokenizer, coverage, merges, ranking, seed):
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TEXTS).counts
    rng = np.random.default_rng(seed)
    uses = counts * rng.integers(1, 9, len(counts)).astype(float)  # whole numbers, whose sums are exact
    ranked = {"uses": uses, "prior": with_prior_uses(spec, uses), "other": rng.random(len(uses))}[ranking]
    natural = natural_vocabulary(spec, counts, keep_merges=merges)
    found = covering(spec, natural, uses, ranked, coverage, merges)
    kept, firsts = set(found.kept.tolist()), {token for learnt in spec.kind.learnt[:merges] for token in learnt}
    assert kept <= set(natural.kept.tolist()) and kept >= {*natural.protected.tolist(), *firsts}
    assert with_ancestors(spec, kept) == kept
    assert len(found.kept) == len(kept) and np.array_equal(found.protected, natural.protected)
    assert uses[found.kept].sum() >= coverage * uses.sum()
    fixed = sorted(with_ancestors(spec, [*natural.protected.tolist(), *firsts]))
    if len(kept) > len(fixed):  # one token fewer would have left too little
        fewer = shrink(spec, natural.kept, ranked, len(kept) - 1, fixed)
        assert uses[fewer].sum() < coverage * uses.sum()
    assert np.array_equal(found.kept, shrink(spec, natural.kept, ranked, len(kept), fixed))
    assert len(covering(spec, natural, uses, ranked, 1.0, merges).kept) == len(natural.kept)


def test_of_what_a_fewest_count_took_no_more_goes(tokenizers):
    tokenizer = tokenizers["byte_level"]
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TEXTS).counts
    natural = natural_vocabulary(spec, counts, min_count=4)
    whole = counts[natural.kept].sum() / counts.sum()
    assert whole < 0.999
    found = covering(spec, natural, counts, counts, 0.999)
    assert np.array_equal(found.kept, natural.kept)
    assert len(covering(spec, natural, counts, counts, whole - 0.05).kept) < len(natural.kept)


# --- sizes beyond what a coverage or a fewest count leaves


def choice_of(tokenizer, texts, **settings):
    spec, settings = read_spec(tokenizer), VocabularySettings(**settings)
    corpus = [Document(text, "corpus") for text in texts]
    counts = source_counts(tokenizer, corpus, WorkFolder(cache_root("pruning")))
    counted = counted_tokens(spec, settings, (), counts)
    return TokenChoice(tokenizer, "llama", counted, spec), counted


@pytest.mark.parametrize("settings", [{"coverage": 0.85}, {"min_count": 11}])
def test_what_the_corpus_uses_comes_back_before_what_it_does_not(settings):
    vocabulary = {token: index for index, token in enumerate([*"abcdef", "ba", "ab", "cd", "ef"])}
    backend = Tokenizer(models.BPE(vocabulary, [("b", "a"), ("a", "b"), ("c", "d"), ("e", "f")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    choice, counted = choice_of(tokenizer, ["ab"] * 90 + ["cd"] * 10 + ["ef"] * 2, keep_merges=0, **settings)
    names = [set(tokenizer.convert_ids_to_tokens(choice(size).tolist())) - set("abcdef") for size in range(6, 12)]
    used = [{"ab"}, {"ab", "cd"}, {"ab", "cd", "ef"}]
    assert len(counted.natural) == 7 and names == [set(), *used, {*used[-1], "ba"}, {*used[-1], "ba"}]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coverage=st.floats(0.5, 1), min_count=st.integers(1, 6), merges=st.sampled_from([0, 40]))
def test_every_size_holds_the_smaller_ones_and_the_used_come_first(tokenizer, coverage, min_count, merges):
    choice, counted = choice_of(tokenizer, TEXTS, coverage=coverage, min_count=min_count, keep_merges=merges)
    plain, all_used = choice_of(tokenizer, TEXTS, keep_merges=merges)
    assert np.array_equal(counted.used, all_used.natural) and np.array_equal(counted.uses, all_used.uses)
    before: set[int] = set()
    for size in (len(counted.protected), *range(len(counted.natural), len(tokenizer) + 1, 29)):
        kept = set(choice(size).tolist())
        assert len(kept) == size and before <= kept and with_ancestors(read_spec(tokenizer), kept) == kept
        if size >= len(counted.natural):
            assert kept >= set(counted.natural.tolist())
            assert kept <= set(counted.used.tolist()) or kept >= set(counted.used.tolist())
        if size >= len(counted.used):
            assert kept == set(plain(size).tolist())
        before = kept
    assert np.array_equal(choice(len(counted.natural)), counted.natural)
    if coverage == 1 and min_count == 1:
        assert np.array_equal(counted.used, counted.natural)


def test_each_source_is_counted_once_for_all_runs_with_the_same_tokenizer(tokenizers, tmp_path, monkeypatch):
    counted, count = [], vocabulary.count_corpus
    monkeypatch.setattr(vocabulary, "count_corpus", lambda *args: counted.append(args[1]) or count(*args))
    corpus = [Document(text, "text", f"source {number % 2}") for number, text in enumerate(TEXTS)]
    known = source_counts(tokenizers["byte_level"], corpus, WorkFolder(tmp_path))
    again = source_counts(
        tokenizers["byte_level"], [*corpus, Document("other", "text", "third")], WorkFolder(tmp_path)
    )
    assert len(counted) == 3 and counted[2] == ["other"]
    assert all(np.array_equal(*pair) for pair in zip(known, again[:2], strict=True))
    source_counts(tokenizers["llama"], corpus, WorkFolder(tmp_path))
    assert len(counted) == 5
