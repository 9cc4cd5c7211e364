"""Kinds of tokenizer models: laws that all of them keep, what sets each apart, and what is refused."""

import json
import sys
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import optimum_flab
from optimum_flab.pruning.vocabulary import TokenChoice, counted_tokens, source_counts
from optimum_flab.records.work import WorkFolder
from optimum_flab.settings.components import VocabularySettings
from optimum_flab.texts.sources import Document
from optimum_flab.utils.errors import FlabError
from optimum_flab.utils.places import cache_root
from optimum_flab.vocabulary import kinds
from optimum_flab.vocabulary.closure import natural_vocabulary, read_spec, resize, with_prior_uses
from optimum_flab.vocabulary.kinds import KINDS, Kind
from optimum_flab.vocabulary.kinds.kind import Marks
from optimum_flab.vocabulary.rewrite import count_changed_texts, rewrite_tokenizer
from optimum_flab.vocabulary.steps import KNOWN
from optimum_flab.vocabulary.usage import count_tokens

from .conftest import MAKERS
from .tiny_tokenizers import BYTES, CORPUS, TRAINING_TEXTS


def content_of(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())


def round_trip(tokenizer, text):
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))


def of_model(model, decoder=None, **names):
    backend = Tokenizer(model)
    backend.decoder = decoder or decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def test_what_is_tokenised_differently_is_found_without_the_pruned_tokenizer(tokenizer):
    texts = [*CORPUS, *TRAINING_TEXTS]
    spec, corpus = read_spec(tokenizer), [Document(text, "corpus") for text in texts]
    counts = source_counts(tokenizer, corpus, WorkFolder(cache_root("pruning")))
    counted = counted_tokens(spec, VocabularySettings(keep_merges=0), (), counts)
    choice, cut = TokenChoice(tokenizer, "llama", counted, spec), set()
    for share in (0.9, 0.6, 0.3):
        kept = choice(max(len(counted.protected), round(share * len(counted.natural))))
        cut.add(choice.changed(texts, kept.tolist()))
        assert choice.changed(texts, kept.tolist()) == count_changed_texts(
            tokenizer, choice.tokenizer(kept), kept, texts
        )
    assert max(cut) > 0


# --- WordPiece -----------------------------------------------------------------------------------------------------


def test_a_word_that_pruning_makes_known_is_counted():
    tokens = ["[UNK]", "a", "##b", "ab", "##bcd", "c", "##c", "d", "##d"]
    for vocabulary, changed in ((tokens[:5], 1), (tokens, 0)):
        model = models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]")
        tokenizer = of_model(model, decoders.WordPiece(), unk_token="[UNK]")
        spec = read_spec(tokenizer)
        corpus = [Document("abcd", "corpus"), Document("a", "corpus")]
        settings = VocabularySettings(keep_merges=0)
        counts = source_counts(tokenizer, corpus, WorkFolder(cache_root("pruning")))
        counted = counted_tokens(spec, settings, (), counts)
        choice = TokenChoice(tokenizer, "llama", counted, spec)
        assert spec.kind.exact == (not changed)
        assert choice.changed([document.text for document in corpus], counted.natural.tolist()) == changed


# --- all kinds -----------------------------------------------------------------------------------------------------


def test_every_kind_has_a_tokenizer_that_the_laws_are_tried_on(tokenizers):
    assert {content_of(tokenizer)["model"]["type"] for tokenizer in tokenizers.values()} == set(KINDS)


DOCS = Path(optimum_flab.__file__).parent.parent / "docs" / "tokenizers.md"


@pytest.mark.skipif(not DOCS.exists(), reason="the package is installed without its sources")
def test_every_kind_is_in_the_documentation():
    rows = [line.split("|")[1] for line in DOCS.read_text("utf-8").splitlines() if line.startswith("|")]
    assert [name for name in KINDS if not any(name in row for row in rows)] == []


def test_a_kind_is_a_module_that_begins_with_why_it_may_be_cut():
    modules = {kind.__module__: sys.modules[kind.__module__] for kind in KINDS.values()}
    assert len(modules) == len(KINDS)
    found = {f"{kinds.__name__}.{module.name}" for module in iter_modules(kinds.__path__)} - {Kind.__module__}
    assert found == set(modules) and all("\n\n" in (module.__doc__ or "") for module in modules.values())


@pytest.mark.parametrize(
    ("module", "part", "refused"),
    [
        (normalizers, "normalizer", {"Normalizer", "Sequence"}),
        (pre_tokenizers, "pre_tokenizer", {"PreTokenizer", "Sequence"}),
        (processors, "post_processor", {"PostProcessor", "Sequence"}),
        (decoders, "decoder", {"Decoder", "DecodeStream", "Sequence", "CTC"}),
    ],
)
def test_every_step_that_the_library_has_was_thought_of(module, part, refused):
    there = {name for name, value in vars(module).items() if isinstance(value, type)}
    assert there - refused <= KNOWN[part] and not KNOWN[part] & (refused - {"Sequence"})


@pytest.fixture(scope="module")
def smaller(tokenizers):
    """By name: the dense tokenizer, and one of half of what a corpus uses."""
    found = {}
    for name, tokenizer in tokenizers.items():
        spec, counts = read_spec(tokenizer), count_tokens(tokenizer, TRAINING_TEXTS).counts
        natural = natural_vocabulary(spec, counts)
        size = (len(natural.kept) + len(natural.protected)) // 2
        kept = resize(spec, natural, counts.astype(float), size)
        assert len(kept) < len(natural.kept)
        found[name] = tokenizer, rewrite_tokenizer(tokenizer, kept)
    return found


ALPHABET = "".join(sorted(set("".join(TRAINING_TEXTS)))) + "жЖ한🙂\u0301\u200b\t▁<>"
WORDS = sorted({word for text in TRAINING_TEXTS for word in text.split()})
TEXT = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from([" ", "  ", "\n", "    "]), st.text(ALPHABET, max_size=4)),
    max_size=15,
).map("".join)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT)
def test_at_any_size_text_is_read_back_as_before(smaller, name, text):
    dense, new = smaller[name]
    expected = round_trip(dense, text)
    assert round_trip(new, text) == expected


@pytest.mark.parametrize("name", MAKERS)
def test_the_file_alone_cuts_text_as_transformers_does(smaller, name, tmp_path):
    _, new = smaller[name]
    new.save_pretrained(tmp_path)
    bare = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*CORPUS, *TRAINING_TEXTS, "жЖ 한 🙂 <unused1> </s>[UNK]"]:
        assert bare.encode(text).ids == new(text)["input_ids"]
        assert bare.decode(bare.encode(text).ids) == new.decode(new(text)["input_ids"], skip_special_tokens=True)


# --- byte pair encoding --------------------------------------------------------------------------------------------


def some_bytes():
    """Bytes of ASCII alone: what is not spelt in them is unknown, and stands behind what is."""
    tokens = ["<unk>", *BYTES[:128], "a", "v", "é"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return of_model(model, decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), unk_token="<unk>")


def marks_that_are_read():
    """Marks inside of words, which the decoder leaves in the text."""
    vocabulary = {token: index for index, token in enumerate(["a", "b", "##a", "##b", "ab", "##ab"])}
    merges = [("a", "##b"), ("##a", "##b")]
    tokenizer = of_model(models.BPE(vocabulary, merges, continuing_subword_prefix="##"), decoders.ByteLevel())
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.mark.parametrize(("maker", "text"), [(some_bytes, "a中vaé"), (marks_that_are_read, "abab")])
def test_the_fewest_tokens_read_a_text_back_as_before(maker, text):
    tokenizer = maker()
    spec = read_spec(tokenizer)
    natural = natural_vocabulary(spec, np.zeros(len(tokenizer), dtype=np.int64))
    assert round_trip(rewrite_tokenizer(tokenizer, natural.protected), text) == round_trip(tokenizer, text)


@pytest.mark.parametrize(
    ("marks", "token", "symbols"),
    [
        (Marks(), "##a</w>", list("##a</w>")),
        (Marks("##"), "##ab", ["##a", "##b"]),
        (Marks("##"), "ab", ["a", "##b"]),
        (Marks("##"), "##", ["#", "###"]),
        (Marks("", "</w>"), "ab</w>", ["a", "b</w>"]),
        (Marks("", "</w>"), "ab", ["a", "b"]),
        (Marks("@", "%"), "@a%", ["@a%"]),
        (Marks("@", "%"), "ab%", ["a", "@b%"]),
        (Marks("@", "%"), "", []),
    ],
)
def test_symbols_with_their_marks(marks, token, symbols):
    assert list(marks.symbols(token)) == symbols


def test_the_way_to_a_token_that_ends_a_word():
    merges = [("a", "b</w>"), ("a", "b"), ("ab", "c</w>")]
    pieces = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "ab</w>", "ab", "abc</w>"]
    model = models.BPE({piece: index for index, piece in enumerate(pieces)}, merges, end_of_word_suffix="</w>")
    spec = read_spec(of_model(model))
    assert [spec.tokens[part] for part in spec.kind.ancestors(8)] == ["ab", "c</w>"]
    assert [spec.tokens[part] for part in spec.kind.ancestors(6)] == ["a", "b</w>"]
    assert {spec.tokens[index] for index in spec.required} == {"a", "b", "c", "a</w>", "b</w>", "c</w>"}


def test_merges_are_without_the_mark_of_what_goes_on():
    pieces = ["a", "##b", "##c", "ab", "abc"]
    model = models.BPE(
        {piece: index for index, piece in enumerate(pieces)},
        [("a", "##b"), ("ab", "##c")],
        continuing_subword_prefix="##",
    )
    dense = of_model(model, decoders.WordPiece())
    spec = read_spec(dense)
    assert [spec.tokens[part] for part in spec.kind.ancestors(4)] == ["ab", "##c"]
    new = rewrite_tokenizer(dense, [0, 1, 2, 3])
    assert new.tokenize("abc") == ["ab", "##c"] and dense.tokenize("abc") == ["abc"]
    assert len(content_of(new)["model"]["merges"]) == 1


def test_words_that_no_merge_makes_stay_where_nothing_else_spells_them():
    vocabulary = {piece: index for index, piece in enumerate(["a", "b", "ab", "né"])}
    for ignore, kept in ((True, {"a", "b", "né"}), (False, {"a", "b"})):
        spec = read_spec(of_model(models.BPE(vocabulary, [("a", "b")], ignore_merges=ignore)))
        assert {spec.tokens[index] for index in spec.required} == kept


# --- Unigram -------------------------------------------------------------------------------------------------------


def unigram_of(scores, decoder=None, **options):
    return of_model(models.Unigram([("<unk>", 0.0), *scores.items()], unk_id=0, **options), decoder, unk_token="<unk>")


def strings(spec, ids):
    return {spec.tokens[index] for index in ids}


def test_characters_stay_and_what_unknown_ones_cost():
    spec = read_spec(unigram_of({"a": -1.0, "b": -2.0, "ab": -2.5, "xy": -3.0, "aab": -9.0, "bba": -9.0}))
    # x is nothing by itself; of the lowest score one is enough
    assert strings(spec, spec.required) == {"<unk>", "a", "b", "xy", "aab"}
    assert strings(spec, spec.kind.ancestors(3)) == set()


@pytest.mark.parametrize("reads", [True, False])
def test_bytes_stand_for_characters_only_where_they_are_read_back(reads):
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]) if reads else None
    dense = unigram_of({**dict.fromkeys(BYTES, -9.0), "中": -3.0, "中国": -4.0}, decoder, byte_fallback=True)
    spec = read_spec(dense)
    assert ("中" in strings(spec, spec.required)) is not reads
    assert set(BYTES) <= strings(spec, spec.required)
    new = rewrite_tokenizer(dense, sorted(spec.required))
    # 国 is no token, so that what has it stays where bytes are not read back
    assert (len(new) < len(dense)) is reads
    for text in ("中", "中国", "国中中"):
        assert round_trip(new, text) == round_trip(dense, text)


def test_characters_stay_where_no_token_stands_for_unknown_ones():
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    scores = {**dict.fromkeys(BYTES, -9.0), "中": -3.0, "a": -3.0, "国": -4.0, "中国": -5.0}
    dense = of_model(models.Unigram(list(scores.items()), unk_id=None, byte_fallback=True), decoder)
    spec = read_spec(dense)
    assert strings(spec, spec.required) == {*BYTES, "中", "a", "国"}
    new = rewrite_tokenizer(dense, sorted(spec.required))
    for text in ("中a国", "中国"):
        assert round_trip(new, text) == round_trip(dense, text) == text


def with_spaces_inside(split):
    scores = {"▁": -2.0, **dict.fromkeys("abc", -3.0), "▁a": -1.0, "▁bc": -1.0, "▁a▁": -1.5, "x": -9.0}
    tokenizer = unigram_of(scores, decoders.Metaspace(split=split))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return tokenizer


def test_no_space_is_lost_where_words_are_cut_before_spaces():
    dense = with_spaces_inside(split=True)
    new = rewrite_tokenizer(dense, sorted(read_spec(dense).required))
    assert len(new) < len(dense) and round_trip(new, "a bc") == round_trip(dense, "a bc") == "a bc"


def test_of_equally_good_ways_the_same_one_is_found():
    scores = {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.5, "bc": -1.5, "abc": -2.5}
    dense = unigram_of(scores)
    texts = ["abc", "abcabc", "cabcb"]
    natural = natural_vocabulary(read_spec(dense), count_tokens(dense, texts).counts)
    new = rewrite_tokenizer(dense, natural.kept)
    assert len(new) < len(dense) and count_changed_texts(dense, new, natural.kept, texts) == 0


@settings(max_examples=80, deadline=None)
@given(
    scores=st.dictionaries(
        st.text("abc", min_size=2, max_size=4), st.sampled_from([-0.5, -1.0, -1.5, -2.0, -3.0, -30.0]), max_size=12
    ),
    texts=st.lists(st.text("abcx", max_size=12), max_size=4),
)
def test_the_best_way_stays_the_best(scores, texts):
    dense = unigram_of({"a": -1.0, "b": -1.5, "c": -2.0, **scores})
    natural = natural_vocabulary(read_spec(dense), count_tokens(dense, texts).counts)
    new = rewrite_tokenizer(dense, natural.kept)
    assert count_changed_texts(dense, new, natural.kept, texts) == 0


def test_what_goes_is_counted_for_what_it_is_cut_into():
    dense = unigram_of({"a": -1.0, "b": -1.0, "ab": -1.1, "abab": -1.2, "ba": -1.3, "bb": -9.0})
    spec = read_spec(dense)
    ids = dense.get_vocab()
    assert spec.kind.pieces(ids["abab"], set(ids.values())) == [ids["ab"], ids["ab"]]
    assert spec.kind.pieces(ids["abab"], set(ids.values()) - {ids["ab"]}) == [ids["a"], ids["ba"], ids["b"]]
    uses = np.zeros(len(dense))
    uses[[ids["abab"], ids["ab"], ids["ba"]]] = 5, 3, 6
    natural = natural_vocabulary(spec, np.ones(len(dense)))
    # ab has 3 uses, fewer than ba: it goes first
    assert ids["ab"] not in resize(spec, natural, uses, len(natural.kept) - 1)
    uses[ids["abab"]] = 2
    # once abab is gone ab has 3 + 4 uses, more than ba
    assert strings(
        spec, set(natural.kept.tolist()) - set(resize(spec, natural, uses, len(natural.kept) - 2).tolist())
    ) == {
        "abab",
        "ba",
    }


def test_the_likeliest_come_first():
    spec = read_spec(unigram_of({"a": -1.0, "b": -5.0, "ab": -2.0, "ba": -2.0}))
    assert [spec.tokens[token] for (token,) in spec.kind.learnt] == ["a", "ab", "ba", "b"]


# --- WordPiece -----------------------------------------------------------------------------------------------------


def wordpiece_of(*pieces, decoder=None):
    vocabulary = {piece: index for index, piece in enumerate(["[UNK]", *pieces])}
    tokenizer = of_model(models.WordPiece(vocabulary, unk_token="[UNK]"), decoder or decoders.WordPiece())
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@settings(max_examples=80, deadline=None)
@given(
    pieces=st.sets(st.text("abc", min_size=2, max_size=4).flatmap(lambda text: st.sampled_from([text, "##" + text]))),
    texts=st.lists(st.text("abcx ", max_size=12), max_size=4),
)
def test_the_longest_stays_the_longest(pieces, texts):
    dense = wordpiece_of("a", "b", "c", "##a", "##b", "##c", *sorted(pieces))
    spec = read_spec(dense)
    natural = natural_vocabulary(spec, count_tokens(dense, texts).counts)
    new = rewrite_tokenizer(dense, natural.kept)
    assert count_changed_texts(dense, new, natural.kept, texts) == 0
    least = rewrite_tokenizer(dense, sorted(spec.required))
    for text in texts:
        assert round_trip(least, text) == round_trip(dense, text)


def test_characters_stay_at_their_places_in_a_word():
    spec = read_spec(wordpiece_of("a", "##a", "##b", "ab", "##ab", "cb", "##ca"))
    # c is nothing by itself, neither at the beginning nor inside
    assert strings(spec, spec.required) == {"[UNK]", "a", "##a", "##b", "cb", "##ca"}


def test_tokens_that_the_decoder_tidies_stay_whole():
    pieces = ["n", "##'", "##t", "t", "##n", "n't", "nt"]
    spec = read_spec(wordpiece_of(*pieces))
    assert "n't" in strings(spec, spec.required) and "nt" not in strings(spec, spec.required)
    spec = read_spec(wordpiece_of(*pieces, decoder=decoders.WordPiece(cleanup=False)))
    assert "n't" not in strings(spec, spec.required)


@pytest.mark.parametrize("kind", [wordpiece_of, lambda *pieces: unigram_of(dict.fromkeys(pieces, -1.0))])
def test_placeholders_among_the_ordinary_tokens_come_last(kind):
    placeholders = [f"[unused{number}]" for number in range(9)]
    # all that spells a placeholder, so that none of them has to stay for its characters
    spelt = sorted({*"[unused]0123456789", *(f"##{character}" for character in "unused]0123456789")})
    spec = read_spec(kind(*placeholders, *spelt, "use", "used", "##ed"))
    ids = {token: index for index, token in spec.tokens.items()}
    reserved = {ids[token] for token in placeholders}
    assert spec.placeholders == reserved and not reserved & spec.required
    assert not reserved & {token for entry in spec.kind.learnt for token in entry}
    natural = natural_vocabulary(spec, np.zeros(len(ids)), keep_merges=len(ids))
    assert set(natural.kept.tolist()) == set(spec.tokens) - reserved
    least = natural_vocabulary(spec, np.zeros(len(ids)))
    assert len(least.kept) < len(natural.kept)
    assert reserved.isdisjoint(resize(spec, least, np.zeros(len(ids)), len(natural.kept)))
    prior = with_prior_uses(spec, np.full(len(ids), 2.0))
    assert prior[list(reserved)].max() == 2.0 < prior[ids["used"]]


def test_the_tokens_of_merges_are_no_placeholders():
    token = "[pad1]"
    pieces = [*token, *(token[:end] for end in range(2, 7))]
    merges = [(token[:end], token[end]) for end in range(1, 6)]
    spec = read_spec(of_model(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges)))
    assert spec.placeholders == frozenset() and spec.kind.learnt[-1][-1] == pieces.index(token)


def test_the_longest_that_are_left_count_for_what_goes():
    dense = wordpiece_of("a", "b", "##a", "##b", "aba", "ab", "##ba", "##ab")
    kind, ids = read_spec(dense).kind, dense.get_vocab()
    everything = set(ids.values())
    assert kind.pieces(ids["aba"], everything) == [ids["ab"], ids["##a"]]
    assert kind.pieces(ids["aba"], everything - {ids["ab"]}) == [ids["a"], ids["##ba"]]
    assert kind.pieces(ids["##ba"], everything) == [ids["##b"], ids["##a"]]
    assert kind.pieces(ids["##b"], everything) == ()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "found"),
    [
        (
            of_model(models.WordLevel({"a": 0}, unk_token="a")),
            "type WordLevel; only .* BPE, Unigram and WordPiece can",
        ),
        (of_model(models.BPE({"a": 0}, [], dropout=0.1)), r"at random \(dropout 0.1\)"),
        (of_model(models.BPE({"a": 0}, []), decoders.CTC()), "decoder has a step CTC"),
        (
            PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))),
            "no decoder, so it puts a space",
        ),
        (of_model(models.Unigram([("a", 0.0), ("b", -1.0), ("a", -2.0)], 0)), "has 1 token twice"),
        (of_model(models.Unigram([("a", 0.0), ("a", -1.0), ("a", -2.0)], 0)), "has 2 tokens twice"),
        (with_spaces_inside(split=False), "a space inside, such as '▁a▁', which its decoder Metaspace"),
    ],
)
def test_other_tokenizers_are_refused(tokenizer, found):
    with pytest.raises(FlabError, match=found):
        read_spec(tokenizer)
