"""A conversation in the terminal: what is remembered, how it ends, and that two models answer in turn."""

from __future__ import annotations

import io
import sys

import pytest

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


def test_lines_of_standard_input_are_answered_by_both_models(tmp_path, monkeypatch):
    for name in ("dense", "out"):
        saved(tiny_model("qwen2", 600), tmp_path / name)

    text = "def add(a):\\\n    return\n\n/clear\nclass A:\n/quit\nnever"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    ended = flab("chat", "out", "--baseline", "dense", "--max-new-tokens", 4, "--raw", cwd=tmp_path)
    assert ended.code == 0 and ended.err.count("continues each text instead of answering it") == 2
    assert ended.out.startswith("[dense]\ndef add(a):\n    return") and "\n\n[out]\ndef add(a):" in ended.out
    assert "\n\n[dense]\nclass A:" in ended.out and "never" not in ended.out
