"""A conversation in the terminal: what is remembered, how it ends, and how two answers stand side by side."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.commands.chat import rows, side_by_side
from optimum_flab.families import family_for
from optimum_flab.running.conversation import Conversation
from optimum_flab.running.generation import completion
from optimum_flab.utils.errors import ConfigurationError

from ..conftest import byte_level_tokenizer, flab, saved, tiny_model
from ..families import zoo


ROLES = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<answer>"


def conversation(template: str | None = ROLES, new: int = 8, **options) -> Conversation:
    model, tokenizer = tiny_model("qwen2", 600), byte_level_tokenizer(600)
    tokenizer.chat_template = template
    return Conversation(model, tokenizer, family_for(model.config), new, **options)


def test_an_answer_is_what_the_model_writes_behind_everything_that_was_said():
    talk = conversation()
    prompt = ""
    for question in ("def add(a, b):", "class Holder:"):
        said = "".join(talk.answer(question))
        prompt = f"{prompt}<user>{question}\n"
        assert said and f"{prompt}<answer>{said}" == completion(talk._model, talk._tokenizer, f"{prompt}<answer>", 8)
        prompt += f"<assistant>{said}\n"
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2


@pytest.mark.parametrize("options", [{"template": None}, {"raw": True}])
def test_without_a_template_each_text_is_continued_by_itself(options):
    talk = conversation(**options)
    for text in ("def add(a, b):", "class Holder:"):
        assert "".join(talk.answer(text)) == completion(talk._model, talk._tokenizer, text, 8)
    assert talk.continues and talk.turns == []


def test_an_answer_that_is_closed_ends_and_what_was_said_is_remembered():
    talk = conversation(new=100_000)  # which would take minutes
    answer = talk.answer("def add(a, b):")
    said = next(answer) + next(answer)
    answer.close()
    assert talk.turns[1] == {"role": "assistant", "content": said}


def test_a_sampled_answer_differs_from_the_likeliest():
    assert len({"".join(conversation(temperature=heat).answer("def")) for heat in (0.0, 5.0, 5.0)}) > 1


def test_a_conversation_that_does_not_fit_is_refused():
    model = zoo.member("gpt2", vocab_size=600)
    talk = Conversation(model, byte_level_tokenizer(600), family_for(model.config), 100_000)
    with pytest.raises(ConfigurationError, match="conversation and answer: .* positions of the model"):
        next(talk.answer("def"))


# --- the terminal


class Terminal(io.StringIO):
    """What is typed."""

    def isatty(self):
        return True


def test_what_a_chat_template_refuses_ends_no_conversation_at_a_terminal(tmp_path, monkeypatch):
    template = "{% if 'bad' in messages[-1].content %}{{ raise_exception('no') }}{% endif %}" + ROLES
    saved(tiny_model("qwen2", 600), tmp_path / "out")
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "out")

    def talk(stdin):
        monkeypatch.setattr(sys, "stdin", stdin)
        return flab("chat", "out", "--max-new-tokens", 4, cwd=tmp_path)

    good, both = talk(io.StringIO("def\n")), talk(Terminal("bad\ndef\n"))
    assert both.code == 0 and "chat template refuses it (no)" in both.err and good.out.strip() in both.out
    assert talk(io.StringIO("bad\ndef\n")).code == 1
    assert talk(None).code == 0  # it was closed


@given(st.text(st.sampled_from("ab \n"), max_size=60), st.integers(0, 60))
def test_more_text_changes_only_the_last_row(text, cut):
    before, after = rows(text[:cut], 7), rows(text, 7)
    assert after[: len(before) - 1] == before[:-1]
    assert "".join(after) == text.replace("\n", "") and max(map(len, after)) <= 7


def test_a_row_is_printed_once_both_columns_have_it():
    read = []

    def pieces(name, *texts):
        for text in texts:
            read.append(name)
            yield text

    left = pieces("left", "one\n", "two\n", "three")
    shown = side_by_side({"a": left, "b": pieces("right", "1 and more\n")}, 19)
    assert [next(shown), next(shown)] == ["[a]      | [b]\n", "one      | 1 and\n"] and read == ["left", "right"]
    assert list(shown) == ["two      | more\n", "three    |\n"]


def test_lines_of_standard_input_are_answered_by_both_models(tmp_path, monkeypatch):
    for name in ("dense", "out"):
        saved(tiny_model("qwen2", 600), tmp_path / name)

    def talk(text, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return flab("chat", "out", "--baseline", "dense", "--max-new-tokens", 4, "--raw", cwd=tmp_path)

    wide = talk("def add(a):\\\n    return\n\n/clear\nclass A:", 110)
    assert wide.code == 0 and wide.err.count("continues each text instead of answering it") == 2
    head, first, second, *_ = wide.out.splitlines()
    assert head.split() == ["[dense]", "|", "[out]"] and first.split(" | ")[1] == "def add(a):"
    assert second.startswith("    return") and wide.out.count("[dense]") == 2
    narrow = talk("class A:\n/quit\nnever", 80).out
    assert narrow.startswith("[dense]\nclass A:") and "\n\n[out]\nclass A:" in narrow and "never" not in narrow
