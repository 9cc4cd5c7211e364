"""Reads the textual form of Python values, without running anything."""

from __future__ import annotations

import ast
import collections
import warnings
from collections.abc import Callable, Mapping
from typing import Any


# none makes more items than are written out, see `_made`
MAKERS: Mapping[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (set, frozenset, list, tuple, dict, bytes, bytearray, range, float, complex)},
    **{kind.__name__: kind for kind in (collections.Counter, collections.OrderedDict, collections.deque)},
}
NUMBERS = ("inf", "nan")
MODULES = ("collections", "math")  # names may be prefixed with these


def read_value(text: str) -> Any:
    """The value that a literal, or a call such as `frozenset({1})` or `deque([1, 2])`, stands for.

    Args:
        text (`str`): one expression of constants, containers, `inf`, `nan`, and calls of the builtin containers and
            numbers and of `Counter`, `OrderedDict` and `deque`.

    Raises:
        `ValueError`: it is anything else, which would have to be run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the parser, about what a model wrote
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
        case _ if (name := _name(node)) is not None and name in NUMBERS:
            return float(name)
    raise ValueError(f"{ast.unparse(node) if node is not None else '**'} is not a value")


def _made(call: ast.Call) -> Any:
    name = _name(call.func)
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    if name is None or name not in MAKERS or len(named) < len(call.keywords):
        raise ValueError(f"{name} is not called")
    arguments = [_value(argument) for argument in call.args]
    values = {name: _value(node) for name, node in named.items()}
    for argument in (*arguments, *values.values()):
        # these would make as many items as a number says
        if isinstance(argument, range) or (name in ("bytes", "bytearray") and isinstance(argument, int)):
            raise ValueError(f"{name} of {argument!r} is not made")
    return MAKERS[name](*arguments, **values)


def _name(node: ast.AST | None) -> str | None:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute(value=ast.Name(id=module)) if module in MODULES:
            return node.attr
    return None


def _number(value: Any) -> int | float | complex:
    if type(value) not in (int, float, complex):
        raise ValueError(f"{value!r} is not a number")
    return value
