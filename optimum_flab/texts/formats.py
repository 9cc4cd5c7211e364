"""How the model of a tokenizer is shown a conversation, and a gap to fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..utils.errors import FlabError
from ..vocabulary.infilling import infilling_format
from ..vocabulary.usage import special_ids


DAY = datetime(2025, 1, 1)
# what a `strftime` format may hold, and what it then produces; those without leading zeros do not exist on every
# platform
DATE_PARTS = {f"%{part}": DAY.strftime(f"%{part}") for part in "aAbBcdfHIjmMpSUwWxXyYzZ"}
DATE_PARTS |= {f"%-{part}": DATE_PARTS[f"%{part}"].lstrip("0") or "0" for part in "dmHIMSjy"}
Turn = dict[str, str]


@dataclass(frozen=True)
class Formats:
    """The formats of a tokenizer.

    Args:
        chat (`Callable`, *optional*): returns the text of a conversation, or `None` for one that the template refuses;
            `None`: there is no suitable chat template.
        question (`Callable`, *optional*): returns the text of a conversation up to where a question is to be answered,
            or `None` for one that the template refuses; `None`: as above.
        closing (`str`): what the chat template writes after an answer, see [`turn_end`].
        infilling (`Callable`, *optional*): returns an infilling text from what comes before, in and after the gap;
            `None`: there are no known tokens for it.
        around (`int`): the number of special tokens around every text.
    """

    chat: Callable[[list[Turn]], str | None] | None = None
    question: Callable[[str], str | None] | None = None
    closing: str = ""
    infilling: Callable[[str, str, str], str] | None = None
    around: int = 0


NO_FORMATS = Formats()


def formats_of(tokenizer: PreTrainedTokenizerBase) -> Formats:
    """The formats that a tokenizer has."""
    before, after = special_ids(tokenizer)
    first = tokenizer.bos_token if before and before == [tokenizer.bos_token_id] else ""
    chat = _chat(tokenizer, first)
    return Formats(
        chat=chat,
        question=None if chat is None else partial(_question, tokenizer, first),
        closing="" if chat is None else turn_end(tokenizer),
        infilling=_infilling(tokenizer),
        around=len(before) + len(after),
    )


@contextmanager
def template_faults(advice: str = "") -> Iterator[None]:
    """Raises a [`FlabError`] if a chat template refuses a conversation in this context: each has its own way."""
    try:
        yield
    except Exception as error:
        raise FlabError(f"the tokenizer's chat template refuses it ({error}){advice}") from error


def chat_text(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], **options: Any) -> str:
    """The text that a tokenizer's chat template makes of a conversation, always with the same date: a template that
    writes today's date would produce other bytes tomorrow.

    Args:
        options: further arguments of `apply_chat_template`.

    Raises:
        [`FlabError`]: the template refuses it; or there are several templates.
    """
    with template_faults():
        template = _on_one_day(tokenizer.get_chat_template())
        return tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options)


def _on_one_day(template: str) -> str:
    """A template that writes the same date whenever it is used, however it asks for the time."""
    if "strftime_now" not in template:
        return template
    written = "".join(f" | replace({part!r}, {text!r})" for part, text in DATE_PARTS.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{written} }}}}{{% endmacro %}}{template}"


def _text_of(tokenizer: PreTrainedTokenizerBase, first: str, turns: list[Turn], **options: Any) -> str | None:
    """The text of a conversation without the token that packing writes before every text."""
    try:
        return chat_text(tokenizer, turns, **options).removeprefix(first)
    except FlabError:
        return None


def _chat(tokenizer: PreTrainedTokenizerBase, first: str) -> Callable[[list[Turn]], str | None] | None:
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "an answer"}]
    shown = _text_of(tokenizer, first, turns) or ""
    return partial(_text_of, tokenizer, first) if all(turn["content"] in shown for turn in turns) else None


def _question(tokenizer: PreTrainedTokenizerBase, first: str, question: str) -> str | None:
    return _text_of(tokenizer, first, [{"role": "user", "content": question}], add_generation_prompt=True)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes after an answer, without the white space that only separates it from the next
    turn; empty if the template writes nothing."""
    mark = "\ufdd0answer\ufdd0"
    shown = _text_of(tokenizer, "", [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}])
    _, separator, end = (shown or "").rpartition(mark)  # a template that knows no such turns says nothing
    return end.rstrip() if separator else ""


def _infilling(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str, str], str] | None:
    known = infilling_format(tokenizer)
    if known is None:
        return None
    _, after = special_ids(tokenizer)
    end = tokenizer.eos_token if tokenizer.eos_token and after[-1:] != [tokenizer.eos_token_id] else ""

    def text_of(prefix: str, middle: str, suffix: str) -> str:
        return known.ask(prefix, suffix) + middle + end

    return text_of
