"""Changes to a prompt that preserve its meaning, made on the fly."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable


def docstring_as_comments(prompt: str, entry_point: str) -> tuple[str, str] | None:
    """The docstring of the function as comment lines."""
    function = _function(prompt, entry_point)
    docstring = None if function is None else ast.get_docstring(function)
    if function is None or docstring is None:
        return None
    node = function.body[0]
    lines = prompt.splitlines(keepends=True)
    indent = " " * node.col_offset
    text = [line.strip() for line in docstring.splitlines()]
    comments = "".join(f"{indent}# {line}".rstrip() + "\n" for line in text)
    return "".join([*lines[: node.lineno - 1], comments, *lines[node.end_lineno :]]), entry_point


def docstring_quotes(prompt: str, entry_point: str) -> tuple[str, str] | None:
    """The docstring of the function in the other kind of triple quotes."""
    function = _function(prompt, entry_point)
    docstring = None if function is None else ast.get_docstring(function)
    if function is None or docstring is None:
        return None
    node = function.body[0]
    lines = prompt.splitlines(keepends=True)
    source = "".join(lines[node.lineno - 1 : node.end_lineno])
    for old, new in (('"""', "'''"), ("'''", '"""')):
        if source.count(old) == 2 and new not in source and new[0] not in source.replace(old, "")[-2:]:
            changed = source.replace(old, new)
            return "".join([*lines[: node.lineno - 1], changed, *lines[node.end_lineno :]]), entry_point
    return None


def rename_function(prompt: str, entry_point: str) -> tuple[str, str] | None:
    """The function under another name: `has_close_elements` becomes `hasCloseElements`, `solve` becomes `do_solve`."""
    first, *others = [word for word in entry_point.split("_") if word] or [entry_point]
    name = first + "".join(word.capitalize() for word in others) if others else f"do_{entry_point}"
    if re.search(rf"\b{re.escape(name)}\b", prompt):
        return None
    return rename(prompt, entry_point, name), name


def rename(source: str, name: str, new: str) -> str:
    """Source with a function under another name: where it is called or defined, and in prose if it is not a word."""
    word = rf"\b{re.escape(name)}\b"
    return re.sub(word if "_" in name else rf"{word}(?=\s*\()", new, source)


# name of the variant -> its (prompt, entry point), or None where it does not apply
ON_THE_FLY: dict[str, Callable[[str, str], tuple[str, str] | None]] = {
    "docstring_comments": docstring_as_comments,
    "docstring_quotes": docstring_quotes,
    "function_name": rename_function,
}


def _function(prompt: str, name: str) -> ast.FunctionDef | None:
    try:
        module = ast.parse(prompt)
    except (SyntaxError, ValueError):
        return None
    definitions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return definitions[-1] if definitions and definitions[-1].body else None
