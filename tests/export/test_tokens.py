"""What GGUF files say of tokenizers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from optimum_flab.export.tokens import tokenizer_fields
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.vocabulary.pre_tokenizers import KNOWN, name_of

from ..conftest import byte_level_tokenizer


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens, as GGUF numbers them
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def field(tokenizer, name, rows=600, **options):
    return tokenizer_fields(tokenizer, rows, **options).fields[f"tokenizer.{name}"]


def sentencepiece_like(added=("\n\n", "▁▁"), **changes) -> PreTrainedTokenizerFast:
    """A BPE with byte fallback, as SentencePiece's are once they are in a `tokenizer.json`."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab", "▁▁"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "▁"), ("▁", "a"), ("a", "b"), ("▁a", "b"), ("▁", "ab")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for name, value in changes.items():
        setattr(backend, name, value)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


def test_byte_level_tokens_stand_as_they_are_spelt_and_empty_rows_are_never_used():
    tokenizer = byte_level_tokenizer(600)
    tokens, kinds = (field(tokenizer, f"ggml.{name}", 608) for name in ("tokens", "token_type"))
    assert len(tokens) == len(kinds) == 608 and len(set(tokens)) == 608
    assert tokens[:600] == tokenizer.convert_ids_to_tokens(range(600))
    assert kinds == [CONTROL] * 2 + [NORMAL] * 598 + [UNUSED] * 8
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert field(tokenizer, "ggml.merges") == [" ".join(pair) for pair in merges]
    assert field(tokenizer, "ggml.model") == "gpt2" and field(tokenizer, "ggml.pre") == "gpt-2"
    assert field(tokenizer, "chat_template") == tokenizer.chat_template
    assert field(tokenizer, "ggml.eos_token_id") == 0 and field(tokenizer, "ggml.padding_token_id") == 1
    assert not field(tokenizer, "ggml.add_bos_token")


def test_pieces_of_sentencepiece_are_ordered_by_their_first_merge():
    tokenizer = sentencepiece_like()
    tokens, kinds, scores = (
        field(tokenizer, f"ggml.{name}", len(tokenizer)) for name in ("tokens", "token_type", "scores")
    )
    by_token = dict(zip(tokens, zip(kinds, scores, strict=True), strict=True))
    assert by_token["<unk>"][0] == UNKNOWN and by_token["<0x0A>"][0] == BYTE and by_token["▁"][0] == NORMAL
    assert by_token["\n\n"][0] == USER_DEFINED and by_token["  "][0] == USER_DEFINED  # spelt as in the text
    assert by_token["▁a"][1] > by_token["ab"][1] > by_token["▁ab"][1]
    assert field(tokenizer, "ggml.model") == "llama" and field(tokenizer, "ggml.add_space_prefix")
    gemma = sentencepiece_like(normalizer=normalizers.Replace(" ", "▁"))
    assert not field(gemma, "ggml.add_space_prefix")


def test_infilling_tokens_are_named_by_what_they_stand_before():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>"]})
    ids = [field(tokenizer, f"ggml.fim_{name}_token_id", 608) for name in ("pre", "suf", "mid")]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


def test_what_llama_cpp_does_not_do_is_said():
    tokenizer = byte_level_tokenizer(600)
    assert not tokenizer_fields(tokenizer, 600).notes
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    assert "NFC" in tokenizer_fields(tokenizer, 600).notes[0]


@pytest.mark.parametrize(
    ("maker", "changes", "note"),
    [
        (
            byte_level_tokenizer,
            {"added": AddedToken("foo", single_word=True)},
            "'foo' among them, are not recognized inside a word",
        ),
        (sentencepiece_like, {"pre_tokenizer": pre_tokenizers.Digits()}, "first splits words, by a step Digits"),
        (sentencepiece_like, {}, "puts a space before a text"),  # its own tokens of spaces
        (
            sentencepiece_like,
            {"normalizer": None, "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first", split=False)},
            "puts a space before a text",
        ),
    ],
)
def test_what_llama_cpp_does_otherwise_is_said(maker, changes, note):
    tokenizer = maker()
    for name, value in changes.items():
        if name == "added":
            tokenizer.add_tokens([value])
        else:
            setattr(tokenizer.backend_tokenizer, name, value)
    assert any(note in said for said in tokenizer_fields(tokenizer, 610).notes)


@pytest.mark.parametrize("maker", [byte_level_tokenizer, sentencepiece_like])
@pytest.mark.parametrize("step", [normalizers.Lowercase(), normalizers.Replace(Regex(" +"), "▁"), normalizers.Strip()])
def test_a_tokenizer_that_changes_text_as_llama_cpp_cannot_is_refused(maker, step):
    tokenizer = maker()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), step])
    with pytest.raises(FlabError, match=f"a step {type(step).__name__}, which llama.cpp lacks"):
        tokenizer_fields(tokenizer, 610)


def test_what_only_pruning_needs_is_not_asked_for():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.backend_tokenizer.decoder = None
    assert tokenizer_fields(tokenizer, 600).fields == tokenizer_fields(byte_level_tokenizer(600), 600).fields
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(FlabError, match="is of type WordLevel; GGUF files are written with"):
        tokenizer_fields(PreTrainedTokenizerFast(tokenizer_object=words), 1)


@pytest.mark.parametrize(
    ("steps", "whole_pieces", "name"),
    [
        (
            [pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)],
            False,
            "qwen2",
        ),
        (
            [
                pre_tokenizers.Split(Regex(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), "removed", invert=True),
                pre_tokenizers.ByteLevel(False, use_regex=False),
            ],
            True,
            "llama-bpe",
        ),
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)], False, "starcoder"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], False, None),
        ([pre_tokenizers.ByteLevel(False)], True, None),
        ([pre_tokenizers.Split(Regex(QWEN), "merged_with_next"), pre_tokenizers.ByteLevel(False)], False, None),
        ([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)], False, None),
    ],
)
def test_the_first_step_has_a_name_or_none(steps, whole_pieces, name):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert name_of(json.loads(backend.to_str())["pre_tokenizer"], whole_pieces) == name


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(KNOWN)), st.data())
def test_a_first_step_that_is_another_has_no_name(steps, data):
    at = data.draw(st.integers(0, len(steps) - 1))
    changed = (*steps[:at], steps[at] + "x", *steps[at + 1 :])
    nodes = [{"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated"} for step in changed]
    assert name_of({"type": "Sequence", "pretokenizers": nodes}, False) is None


def test_an_unknown_first_step_is_asked_for_and_taken():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(FlabError, match="`pre_tokenizer`"):
        tokenizer_fields(tokenizer, 600)
    assert field(tokenizer, "ggml.pre", pre_tokenizer="falcon") == "falcon"
    with pytest.raises(ConfigurationError, match="byte-level"):
        tokenizer_fields(sentencepiece_like(), 300, "qwen2")


def test_empty_rows_have_names_of_their_own_and_tokens_of_bytes_keep_theirs():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_tokens(["[PAD0]", "<｜fim▁begin｜>"])
    tokens = field(tokenizer, "ggml.tokens", 610)
    assert len(set(tokens)) == 610 and tokens[600:603] == ["[PAD0]", "<｜fim▁begin｜>", "[PAD1]"]


def test_tokens_that_take_spaces_in_are_noted():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_tokens([AddedToken("<|user|>", rstrip=True)])
    assert any("'<|user|>'" in note for note in tokenizer_fields(tokenizer, 601).notes)


def test_stored_padding_adds_no_end_to_prompts():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.backend_tokenizer.enable_padding(length=16, pad_id=0, pad_token="<|endoftext|>")
    assert not field(tokenizer, "ggml.add_eos_token")


def test_ends_whose_names_llama_cpp_does_not_know_are_named_or_noted():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<turn>", "<stop>", "<over>"]})
    known, turn, stop, over = range(600, 604)

    def found(*ends):
        said = tokenizer_fields(tokenizer, 604, ends=ends)
        return [said.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")], said.notes

    assert found() == found(0, known) == found(0, known, 700) == ([0, None, None], ())
    assert found(0, turn) == ([0, turn, None], ())
    assert found(known, turn, stop) == ([0, turn, stop], ())
    ids, notes = found(0, turn, stop, over)
    assert ids == [0, turn, stop] and "will not stop at '<over>'" in notes[0]
