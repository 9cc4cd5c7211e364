"""How a tokenizer's own model is shown a conversation, and a gap to fill."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from transformers import PreTrainedTokenizerBase

from ..vocabulary import infilling_format, special_ids


# templates that write the day would give other bytes tomorrow
DAY = datetime(2025, 1, 1)
CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
Turn = dict[str, str]


@dataclass(frozen=True)
class Formats:
    """The formats of a tokenizer.

    Args:
        chat (`Callable`, *optional*): the text of a conversation; `None`: there is no chat template that can.
        infilling (`Callable`, *optional*): the text that fills a gap, from what stands before, in and behind it;
            `None`: there are no known tokens for it.
        around (`int`): special tokens that stand around every text.
    """

    chat: Callable[[list[Turn]], str] | None = None
    infilling: Callable[[str, str, str], str] | None = None
    around: int = 0


NO_FORMATS = Formats()


def formats_of(tokenizer: PreTrainedTokenizerBase) -> Formats:
    """The formats that a tokenizer has."""
    before, after = special_ids(tokenizer)
    return Formats(chat=_chat(tokenizer), infilling=_infilling(tokenizer), around=len(before) + len(after))


def _chat(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Turn]], str] | None:
    if not tokenizer.chat_template:
        return None
    before, _ = special_ids(tokenizer)
    # packing writes it in front of every text
    first = tokenizer.bos_token if before and before == [tokenizer.bos_token_id] else None

    try:
        template = _on_one_day(tokenizer.get_chat_template())
    except ValueError:  # there are several, and none is the usual one
        return None

    def text_of(turns: list[Turn]) -> str:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
        return text.removeprefix(first) if first else text

    try:
        shown = text_of([{"role": "user", "content": "question"}, {"role": "assistant", "content": "an answer"}])
    except Exception:  # templates refuse what they do not know in their own ways
        return None
    return text_of if "question" in shown and "an answer" in shown else None


def _on_one_day(template: str) -> str:
    """A template that writes the same day whenever it is used."""
    formats = {written for _, written in CLOCK.findall(template)}
    if not formats:
        return template
    days = repr({written: DAY.strftime(written) for written in sorted(formats)})
    return "{% macro strftime_now(format) %}{{ " + days + "[format] }}{% endmacro %}" + template


def _infilling(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str, str], str] | None:
    known = infilling_format(tokenizer)
    if known is None:
        return None
    _, after = special_ids(tokenizer)
    end = tokenizer.eos_token if tokenizer.eos_token and after[-1:] != [tokenizer.eos_token_id] else ""

    def text_of(prefix: str, middle: str, suffix: str) -> str:
        return known.ask(prefix, suffix) + middle + end

    return text_of
