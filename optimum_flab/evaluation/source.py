"""Source code as text: the functions that it defines, and its tokens, also where it is truncated or broken."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
import unicodedata
from collections.abc import Iterator
from contextlib import suppress


LAYOUT = frozenset(
    (
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
        tokenize.ERRORTOKEN,
    )
)  # fmt: skip


def function_name(text: str) -> str:
    """A name as Python normalises it, which turns some letters into others: `ﬁ` into `fi`."""
    return unicodedata.normalize("NFKC", text.strip())


def function_start(code: str, name: str) -> int | None:
    """Where the last definition of a function at the left margin begins.

    Args:
        name (`str`): as Python has it, see [`function_name`].
    """
    definitions = re.finditer(r"^(?:async +)?def +([^\s(]+)\s*\(", code, re.MULTILINE)
    starts = [match.start() for match in definitions if function_name(match[1]) == name]
    return starts[-1] if starts else None


def holds_code(code: str, name: str) -> bool:
    """Whether the body of a function holds more than a docstring, comments, `pass` and `...`; it may be truncated."""
    body = itertools.takewhile(lambda token: token.start[1] > 0, behind_docstring(code, name))
    return any(token.string not in ("pass", "...", ";") for token in body)


def behind_docstring(code: str, name: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens from the body of a function, without its docstring, to the end of the source."""
    start = function_start(code, name)
    tokens = iter(()) if start is None else tokens_of(code[start:])
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0)
        if token.string == ":" and depth == 0:
            break
    for number, token in enumerate(tokens):
        if number or token.type != tokenize.STRING:
            yield token


def tokens_of(code: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of source that may be truncated or broken, as far as it can be read; without layout and comments."""
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in LAYOUT:
                yield token
