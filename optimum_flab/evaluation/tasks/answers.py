"""Which code in a chat answer is the answer, as a human reader would see it."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..source import holds_code


# tags and marks stand at the start or end of a line; inside a line they are code or words about them, except for an
# end of thinking with which the text begins
THOUGHT_END = re.compile(r"^[ \t]*</think>|</think>[ \t]*$|^[ \t]*<think>.*?</think>", re.MULTILINE)
THOUGHT_END_ANYWHERE = re.compile(r"(?<![`'\"])</think>|</think>(?![`'\"])")  # except in quotes
THOUGHT_START = re.compile(r"^[ \t]*<think>", re.MULTILINE)
TURN_ENDS = r"(?:<\|(?:im_end|eot_id|eom_id|end|end_of_text|endoftext)\|>|<end_of_turn>|</s>)"
TURN_END = re.compile(rf"^[ \t]*{TURN_ENDS}|{TURN_ENDS}[ \t]*$", re.MULTILINE)
FENCE = re.compile(r"(?P<before>[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
FENCE_BEHIND_WORDS = re.compile(r"(?P<before>)(?:[^`]|`[^`]+`)*(?P<marks>`{3,})(?P<info>\w*)[ \t]*$")
MOST_INDENT_OF_END = 3  # of the closing fence relative to the opening one, as in CommonMark
DEFINITION = re.compile(r"^(?:async +def|def|class) ", re.MULTILINE)
CODE_BEGINS = re.compile(r"(?:import|from|async +def|def|class) |@\w|[A-Za-z_]\w* *=(?!=)")


class Block(NamedTuple):
    """A code block.

    Args:
        code (`str`): its lines, without the indentation of its fence, and without any that all of them share.
        whole (`bool`): false where its end is missing.
        start, end (`int`): where its lines are in the text.
    """

    code: str
    whole: bool
    start: int
    end: int


def fenced_code(answer: str, wanted: str | None = None) -> str:
    """The code of a chat answer.

    It is the last complete block that defines a function, so that a later version replaces an earlier one but an
    example of its use does not; a block that occurs verbatim in an earlier one is a quotation of that one. Truncated
    blocks count where no complete one defines it. What a model thinks, and what follows its turn, is not the answer.

    Args:
        answer (`str`): what a model wrote.
        wanted (`str`, *optional*): the function that is asked for; otherwise any definition will do.
    """
    text = final_answer(answer)
    blocks = code_blocks(text)
    if not blocks:
        return bare_code(text)
    whole = [block.code for block in blocks if block.whole]
    cut = [block.code for block in blocks if not block.whole]
    tests: list[Callable[[str], object]] = [DEFINITION.search]
    if wanted is not None:
        tests.insert(0, lambda code: defines(code, wanted))
    for test in tests:
        for group in (whole, cut):
            if matching := list(filter(test, group)):
                return _choose_block(matching)
    return (whole or cut)[-1]


def _choose_block(blocks: Sequence[str]) -> str:
    """The last block, or the one that it quotes."""
    lines = f"\n{blocks[-1].strip()}\n"
    return max((block for block in blocks if lines in f"\n{block.strip()}\n"), key=len)


def defines(code: str, name: str) -> bool:
    """Whether code holds a function with a body, or binds its name otherwise."""
    return holds_code(code, name) or re.search(rf"^{re.escape(name)}\s*=(?!=)", code, re.MULTILINE) is not None


def final_answer(text: str) -> str:
    """What a model says after its thinking, up to the end of its turn; empty if it never stops thinking.

    Marks in a code block are text; an unclosed block may have been broken off by the end of thinking or of a turn.
    """
    text = text.replace("\r\n", "\n")
    blocks = code_blocks(text)
    begins = THOUGHT_START.match(text.lstrip()) is not None
    ends = _outside(blocks, (THOUGHT_END_ANYWHERE if begins else THOUGHT_END).finditer(text), cut=False)
    if begins and not ends:  # a block that began in the thinking ends with one after it
        ends = [*re.finditer(r"^[ \t]*</think>", text, re.MULTILINE)]
    answer = text[ends[-1].end() :] if ends else text
    blocks = code_blocks(answer)
    marks = [
        *_outside(blocks, THOUGHT_START.finditer(answer), cut=True),
        *_outside(blocks, TURN_END.finditer(answer), cut=False),
    ]
    return answer[: min((mark.start() for mark in marks), default=len(answer))]


def _outside(blocks: Sequence[Block], marks: Iterable[re.Match], cut: bool) -> list[re.Match]:
    """The marks outside complete blocks, and where `cut` is set also outside truncated ones."""
    spans = [(block.start, block.end) for block in blocks if block.whole or cut]
    return [mark for mark in marks if not any(start <= mark.start() < end for start, end in spans)]


def code_blocks(text: str) -> list[Block]:
    """The fenced code blocks of a Markdown text.

    A fence with a language begins a block even inside another one: models forget closing fences, and wrap whole
    answers. A block may also begin at the end of a line of prose.
    """
    text = text.replace("\r\n", "\n") + "\n"
    blocks: list[Block] = []
    begin: re.Match[str] | None = None
    start = place = 0  # of the block, and of the line

    def add(begin: re.Match[str], whole: bool) -> None:
        indent = re.compile(rf"^[ \t]{{0,{len(begin['before'])}}}", re.MULTILINE)
        blocks.append(Block(textwrap.dedent(indent.sub("", text[start:place])), whole, start, place))

    for line in text.split("\n")[:-1]:
        after = place + len(line) + 1
        fence = FENCE.match(line)
        if fence is not None and fence["marks"][0] == "`" and "`" in fence["info"]:
            fence = None  # inline code
        if begin is None:
            begin = fence or FENCE_BEHIND_WORDS.match(line)
            start = after
        elif fence is not None and len(fence["before"]) <= len(begin["before"]) + MOST_INDENT_OF_END:
            if re.match(r"\w", fence["info"]):
                add(begin, whole=False)
                begin = fence
                start = after
            elif fence["marks"].startswith(begin["marks"]):
                add(begin, whole=True)
                begin = None
        place = after
    if begin is not None:
        add(begin, whole=False)
    return blocks


def bare_code(text: str) -> str:
    """The code of an answer without blocks: the text, without prose before and after it where only that parses."""
    lines = text.split("\n")
    while lines:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse("\n".join(lines))
        except SyntaxError as error:
            fault = min(error.lineno or 1, len(lines)) - 1
            if begin := next((number for number, line in enumerate(lines) if CODE_BEGINS.match(line)), 0):
                del lines[:begin]  # prose before
            elif fault and lines[fault].strip() and not lines[fault][0].isspace():
                del lines[fault:]  # prose after
            else:
                break  # the code itself is faulty
        except (ValueError, MemoryError, RecursionError):
            break
        else:
            return "\n".join(lines)
    return text
