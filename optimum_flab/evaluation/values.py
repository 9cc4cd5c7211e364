"""Reads what Python shows of a value, without running anything."""

from __future__ import annotations

import ast
import collections
import warnings
from collections.abc import Callable, Mapping
from typing import Any


# none makes more than what is written, see `_made`
MAKERS: Mapping[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (set, frozenset, list, tuple, dict, bytes, bytearray, range, float, complex)},
    **{kind.__name__: kind for kind in (collections.Counter, collections.OrderedDict, collections.deque)},
}
NUMBERS = ("inf", "nan")
MODULES = ("collections", "math")  # names may be written with these in front


def read_value(text: str) -> Any:
    """The value that a literal, or a call such as `frozenset({1})` or `deque([1, 2])`, stands for.

    Args:
        text (`str`): one expression of constants, containers, `inf`, `nan`, and calls of the builtin containers and
            numbers and of `Counter`, `OrderedDict` and `deque`.

    Raises:
        `ValueError`: it is something else, and would have to be run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, on what a model wrote
            return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"not read as a value ({type(error).__name__})") from error


def _value(node: ast.AST | None) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple() | ast.Set():
            kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
            return kind(map(_value, node.elts))
        case ast.Dict():
            return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            number = _number(_value(node.operand))
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BinOp(op=ast.Add() | ast.Sub(), right=ast.Constant(value=complex() as imaginary)):
            real = _number(_value(node.left))
            return real + imaginary if isinstance(node.op, ast.Add) else real - imaginary
        case ast.Call():
            return _made(node)
        case _ if (name := _name(node)) in NUMBERS:
            return float(str(name))
    raise ValueError(f"{ast.unparse(node) if node is not None else '**'} is no value")


def _made(call: ast.Call) -> Any:
    name = _name(call.func)
    if name is None or name not in MAKERS or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"{name} is not called")
    arguments = [_value(argument) for argument in call.args]
    named = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    for argument in (*arguments, *named.values()):
        # these would make as many items as a number says
        if isinstance(argument, range) or (name in ("bytes", "bytearray") and isinstance(argument, int)):
            raise ValueError(f"{name} of {argument!r} is not made")
    return MAKERS[name](*arguments, **named)


def _name(node: ast.AST | None) -> str | None:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute(value=ast.Name(id=module)) if module in MODULES:
            return node.attr
    return None


def _number(value: Any) -> int | float | complex:
    if type(value) not in (int, float, complex):
        raise ValueError(f"{value!r} is no number")
    return value
