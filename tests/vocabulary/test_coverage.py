"""The share of a corpus that stays whole."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimum_flab.vocabulary import count_tokens, covering, natural_vocabulary, read_spec, resize, with_ancestors

from .tiny_tokenizers import CORPUS, TRAINING_TEXTS


TEXTS = [*CORPUS, *TRAINING_TEXTS]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coverage=st.floats(0.01, 1), merges=st.sampled_from([0, 40]), seed=st.integers(0, 99))
def test_the_least_used_go_until_the_share_is_met(tokenizer, coverage, merges, seed):
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TEXTS).counts
    uses = counts * np.random.default_rng(seed).integers(1, 9, len(counts)).astype(float)
    natural = natural_vocabulary(spec, counts, keep_merges=merges)
    found = covering(spec, natural, uses, uses, coverage, merges)
    kept, firsts = set(found.kept.tolist()), {token for learnt in spec.kind.learnt[:merges] for token in learnt}
    assert kept <= set(natural.kept.tolist()) and kept >= {*natural.protected.tolist(), *firsts}
    assert with_ancestors(spec, kept) == kept
    assert found.natural_size == len(kept) and np.array_equal(found.protected, natural.protected)
    assert uses[found.kept].sum() >= coverage * uses.sum()
    fixed = with_ancestors(spec, [*natural.protected.tolist(), *firsts])
    if len(kept) > len(fixed):  # one token less would have left too little
        fewer = covering(spec, natural, uses, uses, uses[found.kept].sum() / uses.sum() - 1e-9, merges)
        assert len(fewer.kept) == len(kept) or uses[fewer.kept].sum() < coverage * uses.sum()
    assert len(covering(spec, natural, uses, uses, 1.0, merges).kept) == len(natural.kept)


def test_of_what_a_fewest_count_took_no_more_goes(tokenizers):
    tokenizer = tokenizers["byte_level"]
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TEXTS).counts
    natural = natural_vocabulary(spec, counts, min_count=4)
    whole = counts[natural.kept].sum() / counts.sum()
    assert whole < 0.999
    found = covering(spec, natural, counts, counts, 0.999)
    assert np.array_equal(found.kept, natural.kept)
    assert len(covering(spec, natural, counts, counts, whole - 0.05).kept) < len(natural.kept)


def test_rarest_words_go_first(tokenizers):
    tokenizer = tokenizers["byte_level"]
    texts = [" return"] * 90 + [" number"] * 9 + [" items"]
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, texts).counts
    natural = natural_vocabulary(spec, counts)
    ids = tokenizer.convert_tokens_to_ids([" return".replace(" ", "Ġ"), "Ġnumber", "Ġitems"])
    for coverage, stay in ((0.995, 3), (0.99, 2), (0.95, 2), (0.9, 1), (0.5, 1)):
        kept = covering(spec, natural, counts, counts, coverage).kept
        assert [index in kept for index in ids] == [True] * stay + [False] * (3 - stay), coverage
    kept = covering(spec, natural, counts, counts, 0.9).kept
    assert np.array_equal(kept, resize(spec, natural, counts, len(kept)))


@pytest.mark.parametrize("coverage", [1e-9, 0.5])
def test_what_is_protected_stays(tokenizers, coverage):
    tokenizer = tokenizers["byte_level"]
    spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TEXTS).counts
    natural = natural_vocabulary(spec, counts, keep_tokens=["Ġitems"])
    kept = covering(spec, natural, counts, counts, coverage).kept
    assert tokenizer.convert_tokens_to_ids("Ġitems") in kept
