import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.vocabulary.closure import (
    config_token_ids,
    grow,
    natural_vocabulary,
    read_spec,
    resize,
    shrink,
    with_ancestors,
    with_prior_uses,
)
from optimum_flab.vocabulary.rewrite import count_changed_texts, rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens

from .tiny_tokenizers import BYTES, CORPUS, PLACEHOLDERS, TRAINING_TEXTS, byte_level


WORDS = sorted({word for text in TRAINING_TEXTS for word in text.split()})
# pieces of words and runs of spaces make paths that whole words do not
TEXT = st.lists(
    st.one_of(
        st.sampled_from(WORDS).flatmap(lambda word: st.integers(1, len(word)).map(lambda end: word[:end])),
        st.sampled_from([" ", "  ", "\n", "\n\n\n", "        "]),
        st.text(st.characters(codec="utf-8"), max_size=3),
    ),
    max_size=25,
).map("".join)
shared = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def spec(tokenizer):
    return read_spec(tokenizer)


@pytest.fixture
def gemma_tokenizer(tokenizers):
    return tokenizers["gemma"]


def counts_of(tokenizer, texts):
    return count_tokens(tokenizer, texts).counts


def is_closed(spec, kept):
    return with_ancestors(spec, kept.tolist()) == set(kept.tolist())


@shared
@given(texts=st.lists(TEXT, max_size=4), keep_merges=st.sampled_from([0, 40]))
def test_a_corpus_is_cut_into_the_same_pieces(tokenizer, spec, texts, keep_merges):
    kept = natural_vocabulary(spec, counts_of(tokenizer, texts), keep_merges=keep_merges).kept
    assert count_changed_texts(tokenizer, rewrite_tokenizer(tokenizer, kept), kept, texts) == 0


def hand_made(merges):
    """Byte fallback, with the later products at lower ids."""
    products = sorted({left + right for left, right in merges}, reverse=True)
    vocabulary = {token: index for index, token in enumerate([*BYTES, *"abcd", *products, "dd"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=None, eos_token=None)


def test_the_first_merge_to_a_token_need_not_be_the_path():
    tokenizer = hand_made([("a", "b"), ("a", "bc"), ("ab", "c"), ("c", "d"), ("b", "c")])
    spec, ids, texts = read_spec(tokenizer), tokenizer.get_vocab(), ["abcd", "cd"]
    assert tokenizer.tokenize("abcd") == ["abc", "d"]
    by_first_merge = np.array(
        sorted({*spec.required, *(ids[token] for token in ("abc", "a", "bc", "b", "c", "d", "cd"))})
    )
    by_path = natural_vocabulary(spec, counts_of(tokenizer, texts)).kept
    assert set(by_path.tolist()) == {
        *spec.required,
        *(ids[token] for token in ("abc", "ab", "a", "b", "c", "d", "cd")),
    }
    assert count_changed_texts(tokenizer, rewrite_tokenizer(tokenizer, by_first_merge), by_first_merge, texts) == 1
    assert count_changed_texts(tokenizer, rewrite_tokenizer(tokenizer, by_path), by_path, texts) == 0


def test_ancestors_are_all_that_merging_the_token_passes():
    tokenizer = hand_made([("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c"), ("c", "d"), ("ab", "cd")])
    spec, ids = read_spec(tokenizer), tokenizer.get_vocab()

    def strings(token):
        return {spec.tokens[index] for index in with_ancestors(spec, [ids[token]])}

    assert strings("abc") == {"abc", "a", "bc", "b", "c"}  # never over ab, though a merge says so
    assert strings("abcd") == {"abcd"}  # b and c join first, so ab and cd never meet: an orphan
    assert strings("dd") == {"dd"}
    assert strings("a") == {"a"}


@pytest.mark.parametrize("name", ["byte_level", "qwen"])
def test_bytes_specials_and_template_stay_without_any_corpus(tokenizers, name):
    tokenizer = tokenizers[name]
    spec = read_spec(tokenizer)
    kept = natural_vocabulary(spec, np.zeros(len(tokenizer))).kept
    tokens = {spec.tokens[index] for index in kept.tolist()}
    assert {*pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"} <= tokens
    # added, though not special: plain text does not show it, prompts may
    assert {token for token in tokenizer.get_added_vocab() if "reserved" not in token} <= tokens
    assert not any("reserved" in token for token in tokens)
    assert "ĊĊ" in tokens  # written with escapes in the template
    rendered = tokenizer.apply_chat_template([{"role": "", "content": ""}], tokenize=False)
    for text in (tokenizer.chat_template, rendered):
        assert set(tokenizer.encode(text, add_special_tokens=False)) <= set(kept.tolist())


def test_byte_fallback_keeps_bytes_and_the_space_but_not_unused_characters(gemma_tokenizer):
    spec = read_spec(gemma_tokenizer)
    tokens = {
        spec.tokens[index] for index in natural_vocabulary(spec, counts_of(gemma_tokenizer, ["中"])).kept.tolist()
    }
    added = {token for token in gemma_tokenizer.get_added_vocab() if "unused" not in token}
    assert tokens == {*BYTES, "▁", "中", "<pad>", "<eos>", "<bos>", "<unk>", "<mask>"} | added | {"\n"}


def test_where_a_byte_has_no_token_characters_stay(gemma_tokenizer):
    content = json.loads(gemma_tokenizer.backend_tokenizer.to_str())
    lost = {"<0xE4>"}  # the first byte of 中
    tokens = [
        token for token in sorted(content["model"]["vocab"], key=content["model"]["vocab"].get) if token not in lost
    ]
    content["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), unk_token="<unk>")
    spec = read_spec(tokenizer)
    kept = {spec.tokens[index] for index in spec.required}
    assert {"中", "日"} <= kept
    assert tokenizer.decode(tokenizer.encode("中", add_special_tokens=False)) == "中"


def test_placeholders_stay_only_where_used_or_named(gemma_tokenizer):
    spec = read_spec(gemma_tokenizer)
    ids = dict(zip(PLACEHOLDERS, gemma_tokenizer.convert_tokens_to_ids(PLACEHOLDERS), strict=True))
    counts = counts_of(gemma_tokenizer, ["a <unused2>"])
    kept = natural_vocabulary(spec, counts, keep_tokens=["<unused3>"], required_ids=[ids["<unused4>"], 10**9]).kept
    assert {token for token, index in ids.items() if index in kept} == {"<unused2>", "<unused3>", "<unused4>"}


def test_first_merges_stay_with_all_that_leads_to_them(tokenizer, spec):
    kept = natural_vocabulary(spec, np.zeros(len(tokenizer)), keep_merges=60).kept
    assert set(kept.tolist()) >= {index for merge in spec.kind.learnt[:60] for index in merge}
    assert is_closed(spec, kept)
    assert set(kept.tolist()) >= set(natural_vocabulary(spec, np.zeros(0)).protected.tolist())


def test_what_a_post_processor_adds_stays():
    tokenizer = byte_level()
    index = tokenizer.convert_tokens_to_ids("Ġreturn")
    assert index not in read_spec(tokenizer).required
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="Ġreturn $A", special_tokens=[("Ġreturn", index)]
    )
    assert index in read_spec(tokenizer).required


def test_min_count_is_the_fewest_uses(tokenizers):
    tokenizer = tokenizers["byte_level"]
    spec = read_spec(tokenizer)
    counts = counts_of(tokenizer, [" return return items", " return"])
    once = tokenizer.convert_tokens_to_ids("Ġitems")
    assert counts[once] == 1
    assert (
        once in natural_vocabulary(spec, counts, min_count=1).kept
        and once not in natural_vocabulary(spec, counts, min_count=2).kept
    )
    assert tokenizer.convert_tokens_to_ids("Ġreturn") in natural_vocabulary(spec, counts, min_count=2).kept


@pytest.mark.parametrize(("name", "spelt"), [("byte_level", "Ġitems"), ("gemma", "▁items")])
def test_tokens_are_named_as_spelt_or_as_text(tokenizers, name, spelt):
    spec = read_spec(tokenizers[name])
    index = next((i for i, token in spec.tokens.items() if token == spelt), None)
    if index is None:  # Gemma's splitting keeps the space behind the word
        spelt, index = next((token, i) for i, token in spec.tokens.items() if len(token) > 2 and token.endswith("▁"))
    for text in (spelt, spelt.replace("Ġ", " ").replace("▁", " ")):
        assert index in natural_vocabulary(spec, np.zeros(0), keep_tokens=[text]).protected


def test_unknown_names_are_refused_with_near_ones(tokenizers):
    spec = read_spec(tokenizers["byte_level"])
    with pytest.raises(ConfigurationError, match=r"no token 'retturn' \(near: 'Ġreturn'.*, 'never there'"):
        natural_vocabulary(spec, np.zeros(10), keep_tokens=["retturn", "never there", " items"])


@shared
@given(data=st.data())
def test_any_size_is_met_exactly_and_stays_closed(tokenizer, spec, data):
    counts = counts_of(tokenizer, CORPUS)
    natural = natural_vocabulary(spec, counts)
    size = data.draw(st.integers(len(natural.protected), len(spec.tokens)))
    kept = resize(spec, natural, counts, size)
    assert len(kept) == size and is_closed(spec, kept) and np.array_equal(kept, np.unique(kept))
    ids = set(kept.tolist())
    assert ids >= set(natural.protected.tolist())
    assert ids >= set(natural.kept.tolist()) if size >= len(natural.kept) else ids < set(natural.kept.tolist())
    if tokenizer.decode(tokenizer.encode(CORPUS[2], add_special_tokens=False)) == CORPUS[2]:
        new = rewrite_tokenizer(tokenizer, kept)
        assert new.decode(new.encode(CORPUS[2], add_special_tokens=False)) == CORPUS[2]


@given(seed=st.integers(0, 2**32), used=st.floats(0, 1), name=st.integers(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_tokens_merged_early_are_thought_to_be_used_more(tokenizers, seed, used, name):
    spec, rng = read_spec(tokenizers[sorted(tokenizers)[name]]), np.random.default_rng(seed)
    seen = rng.exponential(1e3, max(spec.tokens) + 1) * (rng.random(max(spec.tokens) + 1) < used)
    found = with_prior_uses(spec, seen)
    assert (found >= seen).all()
    assert found.sum() == pytest.approx(1.01 * seen.sum())
    added = found - seen
    first = list(dict.fromkeys(product for *_, product in spec.kind.learnt))
    assert (np.diff(added[first]) <= 1e-9 * seen.sum()).all()
    assert not added[[token for token in spec.tokens if token not in first]].any()
    assert seen.any() or not found.any()


def test_shrinking_drops_the_rarest_first(tokenizers):
    tokenizer = tokenizers["byte_level"]
    spec = read_spec(tokenizer)
    texts = [" return"] * 9 + [" number"] * 5 + [" items"]
    counts = counts_of(tokenizer, texts)
    natural = natural_vocabulary(spec, counts)
    words = tokenizer.convert_tokens_to_ids(["Ġreturn", "Ġnumber", "Ġitems"])
    order = []
    for size in range(len(natural.kept), len(natural.protected) - 1, -1):
        kept = shrink(spec, natural.kept, counts, size, natural.protected)
        order += [word for word in words if word not in kept and word not in order]
    assert order == words[::-1]


@pytest.mark.parametrize(
    ("texts", "size", "dropped"),
    [
        (["ab", "ab", "cd"], 1, {"cd"}),
        (["ab", "cd"], 1, {"cd"}),  # the last merged of equally rare ones
        (["abc"], 1, {"abc"}),  # ab leads to it
        (["abc"] * 2 + ["ab"] * 2 + ["cd"] * 3, 2, {"abc", "cd"}),  # dropping abc leaves four uses of ab
    ],
)
def test_what_shrinking_drops(texts, size, dropped):
    tokenizer = hand_made([("a", "b"), ("c", "d"), ("ab", "c")])
    spec, counts = read_spec(tokenizer), counts_of(tokenizer, texts)
    natural = natural_vocabulary(spec, counts)
    kept = shrink(spec, natural.kept, counts, len(natural.kept) - size, natural.protected)
    assert {spec.tokens[index] for index in set(natural.kept.tolist()) - set(kept.tolist())} == dropped


def test_growing_meets_every_size_where_ancestors_are_missing():
    spec = read_spec(hand_made([("a", "b"), ("c", "d"), ("ab", "cd")]))
    keep = natural_vocabulary(spec, np.zeros(0)).protected
    grown = [grow(spec, keep, size) for size in range(len(keep), len(spec.tokens) + 1)]
    assert [len(kept) for kept in grown] == list(range(len(keep), len(spec.tokens) + 1))
    assert all(is_closed(spec, kept) for kept in grown)
    assert [spec.tokens[index] for index in np.setdiff1d(grown[3], keep)] == ["a", "b", "ab"]


def test_impossible_sizes_are_refused(tokenizer, spec):
    counts = counts_of(tokenizer, CORPUS)
    natural = natural_vocabulary(spec, counts)
    least = len(natural.protected)
    with pytest.raises(FlabError, match=f"cannot shrink to {least - 1} tokens.* number {least}"):
        resize(spec, natural, counts, least - 1)
    with pytest.raises(FlabError, match=f"cannot grow to {len(spec.tokens) + 1}; choose up to {len(spec.tokens)}"):
        resize(spec, natural, counts, len(spec.tokens) + 1)


def test_ids_named_by_configurations():
    config = LlamaConfig(bos_token_id=1, eos_token_id=[2, 9], pad_token_id=None)
    generation = GenerationConfig(
        eos_token_id=[2, 11], pad_token_id=7, decoder_start_token_id=-1, suppress_tokens=[100]
    )
    assert config_token_ids(config, generation, None) == [1, 2, 7, 9, 11]
