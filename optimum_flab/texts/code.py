"""Parts of a Python file that make sense on their own, and gaps in programs."""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator

import numpy as np


FEWEST_LINES = 3
SHARE_OF_HEADS = 0.25  # of the files whose beginning is taken first
LARGEST_SHARE_OF_DIGITS = 0.2  # of a text; one with more counts as a table
MOST_LINES_OF_GAP = 4
SHARE_OF_OPEN_LINES = 0.25  # of the gaps begin inside a line


def code_parts(text: str, most_characters: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """The beginning of a file, its functions, its classes and, for classes that are too long, their methods, in random
    order.

    Args:
        text (`str`): of the file; what does not parse has no parts.
        most_characters (`int`): the maximum length of a part; anything longer is left out whole.
        rng (`np.random.Generator`): decides the order.

    Returns:
        `list[tuple[int, str]]`: parts and the lines that they begin at, from 1.
    """
    lines = text.splitlines(keepends=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that will be errors one day
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    # form feeds and the like end a line of text, but not a line of Python
    same = len(lines) == len(text.split("\n")) - text.endswith("\n")
    definitions = [part for part in _definitions(tree, lines, most_characters) if _is_worth(part[1])] if same else []
    parts = [definitions[index] for index in rng.permutation(len(definitions))]
    head = _head(lines, most_characters)
    if not _is_worth(head[1]):
        return parts
    place = 0 if rng.random() < SHARE_OF_HEADS else int(rng.integers(len(parts) + 1))
    return [*parts[:place], head, *parts[place:]]


def _definitions(tree: ast.AST, lines: list[str], most_characters: int) -> Iterator[tuple[int, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            part = textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
            if len(part) <= most_characters:
                yield first, part
            elif isinstance(node, ast.ClassDef):
                yield from _definitions(node, lines, most_characters)


def _head(lines: list[str], most_characters: int) -> tuple[int, str]:
    """A file's first lines, without the comments above them, which are mostly licences."""
    first = next((at for at, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    stop, size = first, 0
    while stop < len(lines) and size + len(lines[stop]) <= most_characters:
        size += len(lines[stop])
        stop += 1
    return first + 1, "".join(lines[first:stop])


def _is_worth(text: str) -> bool:
    digits = sum(map(str.isdigit, text))
    return text.count("\n") >= FEWEST_LINES and digits <= LARGEST_SHARE_OF_DIGITS * len(text)


def with_gap(text: str, rng: np.random.Generator) -> tuple[str, str, str] | None:
    """The text before, in and after a gap of one or a few lines in a program; `None` where the program is too short.

    Most gaps are whole lines; some begin inside one, as when somebody is typing.
    """
    lines = text.splitlines(keepends=True)
    places = [at for at, line in enumerate(lines[1:], start=1) if line.strip()]
    if len(lines) < FEWEST_LINES or not places:
        return None
    first = places[rng.integers(len(places))]
    length = 1 if rng.random() < 0.5 else int(rng.integers(2, MOST_LINES_OF_GAP + 1))
    start = len("".join(lines[:first]))
    if rng.random() < SHARE_OF_OPEN_LINES:
        indent = len(lines[first]) - len(lines[first].lstrip())
        start += int(rng.integers(indent, len(lines[first].rstrip())))
    stop = len("".join(lines[: first + length]))
    # the line end before the suffix belongs to it, as in an editor
    stop -= len(text[start:stop]) - len(text[start:stop].rstrip("\r\n"))
    return text[:start], text[start:stop], text[stop:]
