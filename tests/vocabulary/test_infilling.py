"""How models are asked to fill a gap, on real tokenizers with the tokens for it."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.vocabulary.infilling import KNOWN, InfillingFormat, ends_of_gap, infilling_format, missing_tokens

from .llama_files import llama
from .tiny_tokenizers import byte_level_backend, gemma


QWEN = InfillingFormat(KNOWN[0])


def with_tokens(*tokens, special=True):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_backend(), eos_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return tokenizer


@pytest.mark.parametrize("template", KNOWN)
@pytest.mark.parametrize("special", [True, False])
def test_a_known_format_is_found_by_its_tokens(template, special):
    wanted = InfillingFormat.parse(template)
    tokenizer = with_tokens(*wanted.marks, special=special)
    assert infilling_format(tokenizer) == wanted
    ids = tokenizer.encode(wanted.ask("a = 1\n", "\nb = 2"), add_special_tokens=False)
    assert [ids.count(tokenizer.convert_tokens_to_ids(mark)) for mark in wanted.marks] == [1] * len(wanted.marks)


def test_a_tokenizer_without_such_tokens_has_no_known_format():
    assert infilling_format(with_tokens()) is None
    assert infilling_format(gemma()) is None
    assert infilling_format(with_tokens("<|fim_prefix|>", "<|fim_middle|>")) is None


def test_the_tokens_of_code_llama_are_found_behind_its_normalizer():
    tokenizer = llama()
    asked = infilling_format(tokenizer)
    assert asked == InfillingFormat("▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>")
    assert tokenizer.convert_tokens_to_ids("▁<EOT>") in ends_of_gap(tokenizer, asked)


def test_what_is_no_special_token_is_missing():
    tokenizer = with_tokens("<PRE>", "<SUF>")
    word = next(token for token in tokenizer.get_vocab() if token.isalpha() and len(token) > 2)
    assert missing_tokens(tokenizer, ["<PRE>", word, "<MID>", "<PRE><SUF>", "<PRE>\n"]) == [word, "<MID>", "<PRE>\n"]


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{prefix}",
        "<P>{prefix}{suffix}",
        "<P>{prefix}<S>{suffix}<M>{prefix}",
        "<P>{prefix}<S>{suffix}{",
        "<P>{}<S>{}",
        "<P>{prefix!r}<S>{suffix}",
        "<P>{prefix:9}<S>{suffix}",
        "<P>{prefix}<S>{suffix}{other}",
        "<P>{prefix.x}<S>{suffix}",
    ],
)
def test_a_template_without_both_texts_is_refused(template):
    with pytest.raises(ConfigurationError, match="fim_format: .* does not hold {prefix} and {suffix} once each"):
        InfillingFormat.parse(template)


def test_a_gap_ends_with_any_special_token_and_with_those_that_are_not_called_so():
    tokenizer = with_tokens(*QWEN.marks, "<|file_sep|>", special=False)
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])  # of indentation: no end
    wanted = ["<|endoftext|>", "<|reserved_special_token_0|>", *QWEN.marks, "<|file_sep|>"]
    assert ends_of_gap(tokenizer, QWEN) == sorted(map(tokenizer.convert_tokens_to_ids, wanted))


def test_the_beginning_of_the_prefix_and_the_end_of_the_suffix_go():
    tokenizer = with_tokens(*QWEN.marks)
    pieces = [tokenizer.convert_tokens_to_ids(mark) for mark in QWEN.marks]
    prefix, suffix = list(range(300, 320)), list(range(400, 410))
    ids = [pieces[0], *prefix, pieces[1], *suffix, pieces[2]]

    def cut(room):
        found = QWEN.shortened(tokenizer, ids, room)
        return found[1 : found.index(pieces[1])], found[found.index(pieces[1]) + 1 : -1]

    assert cut(33) == (prefix, suffix)
    assert cut(28) == (prefix[5:], suffix)
    assert cut(13) == (prefix[-5:], suffix[:5])
    assert cut(1) == ([], [])
    bare = InfillingFormat("{prefix}<|fim_suffix|>{suffix}<|fim_middle|>")
    marks = [tokenizer.convert_tokens_to_ids(mark) for mark in bare.marks]
    assert bare.shortened(tokenizer, [*prefix, marks[0], *suffix, marks[1]], 12) == [
        *prefix[-5:],
        marks[0],
        *suffix[:5],
        marks[1],
    ]
