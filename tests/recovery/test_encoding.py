"""Labels on the answers alone, whitespace untouched, documents apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import FlabError
from optimum_flab.recovery.encoding import (
    encode,
    encode_text,
    pack_examples,
    prompt_text,
    schedule,
    split_rows,
    turn_end,
    uses_chat,
)
from optimum_flab.recovery.instructions import Example

from ..conftest import byte_level_tokenizer


TOKENIZER = byte_level_tokenizer(600)
CHAT = (
    "{% for m in messages %}<|pad|>{{ m['role'] }}\n{{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|pad|>assistant\n{% endif %}"
)
CODE = st.text(" \n\tdefretun:=()xyz1é変", min_size=1, max_size=40)


def example(prompt: str, answer: str, continues: bool = True) -> Example:
    return Example("x#1", (("user", prompt),), answer, continues)


@settings(max_examples=80, deadline=None)
@given(CODE, CODE, st.booleans())
def test_the_text_comes_back_as_it_was_and_the_labels_cover_the_answer(prompt, answer, continues):
    one = example(prompt, answer, continues)
    (encoded,) = encode([one], TOKENIZER, chat=False)
    before = prompt_text(one, TOKENIZER, chat=False)
    assert encoded.ids[-1] == TOKENIZER.eos_token_id and encoded.answers[-1]
    assert TOKENIZER.decode(encoded.ids[:-1]) == before + answer
    labelled = TOKENIZER.decode([i for i, flag in zip(encoded.ids, encoded.answers, strict=True) if flag][:-1])
    # a token that holds a part of both belongs to the answer
    assert labelled.endswith(answer) or answer in labelled or "\ufffd" in labelled
    assert encoded.answers == sorted(encoded.answers)


def test_the_chat_template_stands_before_the_answer_and_does_not_trim_it():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = CHAT
    one = Example("x#1", (("system", "s"), ("user", "u")), "\n    return 1  \n", False)
    (encoded,) = encode([one], tokenizer, chat=True)
    text = tokenizer.decode(encoded.ids)
    assert text == "<|pad|>system\ns\n<|pad|>user\nu\n<|pad|>assistant\n\n    return 1  \n<|endoftext|>"


def test_an_answer_in_a_chat_ends_as_the_template_ends_it():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = (
        "{% for m in messages %}<|pad|>{{ m['role'] }}\n{{ m['content'] }}<|endoftext|>|\n{% endfor %}"
        "{% if add_generation_prompt %}<|pad|>assistant\n{% endif %}"
    )
    assert turn_end(tokenizer) == "<|endoftext|>|"
    (encoded,) = encode([example("u", "return 1", False)], tokenizer, chat=True)
    assert tokenizer.decode(encoded.ids) == (
        "<|pad|>user\nu<|endoftext|>|\n<|pad|>assistant\nreturn 1<|endoftext|>|<|endoftext|>"
    )
    assert tokenizer.decode([i for i, flag in zip(encoded.ids, encoded.answers, strict=True) if flag]) == (
        "return 1<|endoftext|>|<|endoftext|>"
    )
    (continued,) = encode([example("def f():\n", "    return 1", True)], tokenizer, chat=True)
    assert tokenizer.decode(continued.ids) == "def f():\n    return 1<|endoftext|>"


def test_a_turn_that_ends_with_the_end_of_sequence_has_one_of_them():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    (encoded,) = encode([example("u", "return 1", False)], tokenizer, chat=True)
    assert tokenizer.decode(encoded.ids) == "u<|endoftext|>\nreturn 1<|endoftext|>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}|{% endfor %}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}|{% endif %}{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
    ids=["changes", "leaves out", "refuses"],
)
def test_a_template_that_does_not_show_the_answer_says_nothing_of_its_end(template):
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = template
    assert turn_end(tokenizer) == ""


@settings(max_examples=50, deadline=None)
@given(st.lists(CODE, min_size=1, max_size=8).map("".join), st.integers(1, 12))
def test_no_token_of_a_plain_text_is_lost_and_none_is_an_answer(text, length):
    pieces = encode_text(text, TOKENIZER, length)
    assert all(0 < len(piece.ids) <= length and not any(piece.answers) for piece in pieces)
    assert TOKENIZER.decode([i for piece in pieces for i in piece.ids]) == text


def test_a_template_that_refuses_is_named():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(FlabError, match="x#1.*no system turns.*plain"):
        encode([example("a", "b", False)], tokenizer, chat=True)


def test_a_chat_needs_a_template():
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = None
    assert not uses_chat(tokenizer, "auto") and not uses_chat(tokenizer, "plain")
    with pytest.raises(FlabError, match="no chat template"):
        uses_chat(tokenizer, "chat")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CODE, CODE), min_size=1, max_size=12), st.integers(8, 64))
def test_packing_keeps_every_label_at_the_token_before_it(pairs, length):
    encoded = encode([example(*pair) for pair in pairs], TOKENIZER, chat=False)
    packed, too_long = pack_examples(encoded, length, False)
    fitting = [one for one in encoded if len(one.ids) <= length]
    assert too_long == len(encoded) - len(fitting)
    if packed is None:
        assert not fitting
        return
    expected = sorted(
        [one.ids[i] for i in range(1, len(one.ids)) if one.answers[i]] for one in fitting if len(one.ids) > 1
    )
    tokens, found = packed.tokens, []
    for row in range(len(packed)):
        starts = [i for i in range(length) if tokens.mask[row, i] and tokens.position_ids[row, i] == 0]
        for start, stop in zip(starts, [*starts[1:], int(tokens.mask[row].sum())], strict=True):
            labels = packed.labels[row, start:stop]
            assert labels[-1] == -100  # nothing predicts the next document
            following = tokens.input_ids[row, start + 1 : stop]
            assert all(label in (-100, token) for label, token in zip(labels[:-1], following, strict=True))
            found.append([int(label) for label in labels if label != -100])
        assert (packed.labels[row][~tokens.mask[row]] == -100).all()
    assert sorted(found) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.floats(0.01, 0.5), st.integers(0, 1000))
def test_rows_set_aside_are_not_trained_on(number, share, seed):
    rows, aside = split_rows(number, share, seed)
    assert rows and aside
    assert sorted(rows + aside) == list(range(number))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 8), st.integers(0, 1000))
def test_every_row_comes_once_a_pass(rows, steps, batch, seed):
    order = schedule(rows, steps, batch, seed)
    assert len(order) == steps * batch
    for start in range(0, len(order) - rows + 1, rows):
        assert sorted(order[start : start + rows]) == list(range(rows))
    assert order[:batch] == schedule(rows, steps + 5, batch, seed)[:batch]


def test_digests_tell_labels_apart():
    packed, _ = pack_examples(encode([example("def f():\n", "    pass\n")] * 3, TOKENIZER, chat=False), 64, False)
    other = type(packed)(packed.tokens, torch.full_like(packed.labels, -100))
    assert packed.digest != other.digest
    assert packed.digest == packed.rows(range(len(packed))).digest


def test_examples_that_would_see_each_other_get_rows_of_their_own():
    encoded = encode([example("def f():\n", "    pass\n")] * 3, TOKENIZER, chat=False)
    packed, _ = pack_examples(encoded, 64, True)
    assert len(packed) == 3 > len(pack_examples(encoded, 64, False)[0])
    for row in range(3):
        assert packed.tokens.input_ids[row][packed.tokens.mask[row]].tolist() == encoded[row].ids
        assert int((packed.labels[row] != -100).sum()) == sum(encoded[row].answers)
