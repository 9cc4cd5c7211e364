"""Rows as ReCode's natgen makes them: a prompt holds the first half of a solution, in a changed form.

ReCode's way of splitting: a mark behind half of the solution's lines, rounded down. The whole function is transformed
and written anew, and divided at the mark.
"""

from __future__ import annotations

import ast


MARK = "print('@@this is the line to split##')"


def half(solution: str) -> str:
    """The lines that ReCode gives away, as they stand."""
    lines = solution.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2])


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def perturbed(problem: dict[str, str], transform, given: str | None = None) -> dict[str, str | None]:
    """A row of a natgen file; `transform` changes the parsed function, `given` says where its solution is split."""
    given = half(problem["canonical_solution"]) if given is None else given
    rest = problem["canonical_solution"][len(given) :]
    if not given or not rest.strip():
        return {**problem, "partial": None}
    prompt = problem["prompt"] + given
    deeper = max(_indent(prompt.rstrip().splitlines()[-1]), _indent(rest.lstrip("\n").splitlines()[0]), key=len)
    row = {**problem, "partial": f"{prompt}{deeper}# {MARK}\n{rest}"}
    try:
        module = ast.parse(f"{prompt}{deeper}{MARK}\n{rest}")
    except SyntaxError:  # split inside a statement: nothing is transformed
        return {**row, "prompt": prompt, "canonical_solution": rest}
    (function,) = [
        node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == problem["entry_point"]
    ]
    transform(function)
    lines = ast.unparse(ast.fix_missing_locations(module)).splitlines(keepends=True)
    (at,) = [number for number, line in enumerate(lines) if MARK in line]
    return {
        **row,
        "prompt": "".join(lines[:at]) + _indent(lines[at]) + "\n",
        "canonical_solution": "".join([f"# {MARK}\n", *lines[at + 1 :]]) + "\n",
    }


def without_marks(row: dict[str, str | None]) -> dict[str, str | None]:
    """The same row without what tells where ReCode split it."""
    solution = row["canonical_solution"].removeprefix(f"# {MARK}\n")
    return {**{name: value for name, value in row.items() if name != "partial"}, "canonical_solution": solution}


# --- transformations -----------------------------------------------------------------------------------------------


def _own_names(function: ast.FunctionDef) -> list[str]:
    stored = [node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    arguments = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    outside = {name for node in ast.walk(function) if isinstance(node, ast.Nonlocal) for name in node.names}
    return sorted(set(stored) - arguments - outside)


def renamed_variables(function: ast.FunctionDef) -> None:
    names = {name: f"VAR_{number}" for number, name in enumerate(_own_names(function))}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)


def dead_code(function: ast.FunctionDef) -> None:
    """A loop that never runs, in front of the first statement behind the docstring."""
    function.body[1:1] = ast.parse("for _i_1 in range(0):\n    _i_1 = 0").body


def swapped_operands(function: ast.FunctionDef) -> None:
    swapped = {
        ast.Lt: ast.Gt,
        ast.Gt: ast.Lt,
        ast.LtE: ast.GtE,
        ast.GtE: ast.LtE,
        ast.Eq: ast.Eq,
        ast.NotEq: ast.NotEq,
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in swapped:
            node.ops = [swapped[type(node.ops[0])]()]
            node.left, node.comparators = node.comparators[0], [node.left]


class _ForToWhile(ast.NodeTransformer):
    def __init__(self):
        self.loops = 0

    def visit_For(self, node: ast.For) -> list[ast.stmt] | ast.stmt:
        self.generic_visit(node)
        if node.orelse or any(isinstance(inner, ast.Continue) for inner in ast.walk(node)):
            return node
        name = f"_i_{self.loops}"
        self.loops += 1
        start = ast.parse(f"{name}_all = list()\n{name} = 0").body
        start[0].value.args = [node.iter]
        (loop,) = ast.parse(f"while {name} < len({name}_all):\n    value = {name}_all[{name}]\n    {name} += 1").body
        loop.body[0].targets = [node.target]
        loop.body[1:1] = node.body
        return [*start, loop]


def for_to_while(function: ast.FunctionDef) -> None:
    _ForToWhile().visit(function)


def swapped_blocks(function: ast.FunctionDef) -> None:
    """`if` and `else` change places under the negated condition, where the mark is in neither."""
    for node in ast.walk(function):
        if isinstance(node, ast.If) and node.orelse and not any(map(_is_mark, ast.walk(node))):
            node.test = ast.UnaryOp(ast.Not(), node.test)
            node.body, node.orelse = node.orelse, node.body


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and f"print({node.value!r})" == MARK


def rewritten(function: ast.FunctionDef) -> None:
    """Nothing changes but the layout: other quotes, no blank lines, no comments, no needless brackets."""


TRANSFORMATIONS = {
    "rewritten": rewritten,
    "renamed_variables": renamed_variables,
    "dead_code": dead_code,
    "swapped_operands": swapped_operands,
    "for_to_while": for_to_while,
    "swapped_blocks": swapped_blocks,
}
