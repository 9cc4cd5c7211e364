"""What the source of a test says, without running it: which names it uses, what it expects, what it compares."""

from __future__ import annotations

import ast
import types
from enum import Enum
from typing import Any

from wire_scalars import SCALARS


# names with which a test sets or reads what the program's process has for itself, or what never crosses: streams,
# files, the environment, states of modules, what is attached to an exception
STATE = frozenset(
    """stdin stdout stderr redirect_stdin redirect_stdout redirect_stderr capsys patch mock monkeypatch open tempfile
    mkdtemp mkstemp TemporaryDirectory TemporaryFile NamedTemporaryFile write_text write_bytes chdir environ putenv
    unsetenv setlocale seed setstate getcontext setcontext localcontext setrecursionlimit set_int_max_str_digits
    __cause__ __context__ __notes__ exceptions""".split()
)
BY_VALUE = frozenset(kind for kind in SCALARS if kind not in (type(None), bool, type(...), type(NotImplemented)))


def expects(test: ast.Module, frame: types.FrameType | None, name: str) -> bool:
    """Whether the test function that a frame runs catches an exception by its name at the frame's current position."""
    if frame is None:
        return False
    code = frame.f_code
    functions = [node for node in ast.walk(test) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    scopes = [
        node
        for node in functions
        if node.name == code.co_name
        and code.co_firstlineno == min(part.lineno for part in (node, *node.decorator_list))
    ]
    if code.co_name == "<module>":
        scopes = [test]
    for scope in scopes[:1]:
        inner = [*ast.iter_child_nodes(scope)]
        while inner:
            node = inner.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            inner += ast.iter_child_nodes(node)
            if (
                isinstance(node, ast.Try)
                and node.body[0].lineno <= frame.f_lineno <= node.body[-1].end_lineno
                and any(name in _names(handler.type) for handler in node.handlers)
            ):
                return True
    return False


def _names(node: ast.expr | None) -> set[str]:
    parts = ast.walk(node) if node is not None else ()
    return {getattr(part, "id", None) or getattr(part, "attr", "") for part in parts}


def global_names(code: types.CodeType) -> set[str]:
    """Names that a piece of code and the functions in it look up (among them names of attributes)."""
    inner = [global_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def defines(source: str) -> bool:
    """Whether source does more than import and hold docstrings."""
    plain = (ast.Import, ast.ImportFrom, ast.Expr)
    return any(not isinstance(node, plain) for node in ast.parse(source).body)


def assigned(source: str) -> set[str]:
    """Global names to which source assigns a value other than a function, a class or a module."""
    statements = (node for node in ast.parse(source).body if isinstance(node, (ast.Assign, ast.AnnAssign)))
    targets = (part for node in statements for part in ast.walk(node))
    return {part.id for part in targets if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def state_used(test: ast.Module, of_prompt: set[str], entry: str | None) -> str | None:
    """A name that a test uses for state that each of the two processes has for itself, if there is one."""
    names, attributes = set(), set()
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names |= {*node.name.split(".")}
    found = (names & (STATE | of_prompt)) | (attributes & STATE - {"open"})  # which may be a method of the program's
    return min(found - {entry}, default=None)


def class_attribute_used(test: ast.Module, classes: dict[str, type]) -> str | None:
    """An attribute of a class of the prompt that a test uses, not a method or a member: each side has its own."""
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in classes:
            value = getattr(classes[node.value.id], node.attr, None)
            if not (callable(value) or isinstance(value, (property, Enum))):
                return f"{node.value.id}.{node.attr}"
    return None


def crosses_as_equal(value: Any) -> bool:
    """Whether a value arrives as a different object that is equal to it; what equals nothing is kept."""
    return type(value) in BY_VALUE and value == value


def compares_scalars_by_identity(test: ast.Module, error: BaseException) -> bool:
    """Whether the line that raised uses `is` on a value in a variable that is not a container."""
    trace, found = error.__traceback__, None
    while trace is not None:
        found = trace if trace.tb_frame.f_code.co_filename == "<test>" else found
        trace = trace.tb_next
    if found is None:
        return False
    variables = {**found.tb_frame.f_globals, **found.tb_frame.f_locals}
    return any(
        isinstance(part, ast.Name) and crosses_as_equal(variables.get(part.id))
        for node in ast.walk(test)
        if isinstance(node, ast.Compare) and node.lineno <= found.tb_lineno <= node.end_lineno
        if any(isinstance(sign, (ast.Is, ast.IsNot)) for sign in node.ops)
        for part in (node.left, *node.comparators)
    )
