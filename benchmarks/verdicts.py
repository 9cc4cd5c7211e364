"""Verdicts of the sandbox against plain Python's.

    python benchmarks/verdicts.py --mbpp FILE --codeharmony FILE

Program and test run once in the sandbox, under each isolation that works here, and once as one text by `exec` in an
ordinary process. The sets: the reference solutions of HumanEval and of the files, mutants of these (changed operators
and constants, negated conditions, swapped branches, removed statements, early returns), and the programs of
`tests/execution/programs.yaml`, of which those that bubblewrap forbids are listed with the reason. This runs programs
outside of the sandbox: use files that you trust.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from common import humaneval_problems, positive, print_result, progress

from optimum_flab.execution import (
    Isolation,
    Limits,
    Program,
    SandboxWarning,
    candidates,
    run_programs,
    works,
)


PROGRAMS = Path(__file__).parents[1] / "tests" / "execution" / "programs.yaml"
LIMITS = Limits(wall_seconds=8, cpu_seconds=6)
PLAIN = """
import os, resource, signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background may ignore it
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # mutants grow lists without end
write, leave, text = os.write, os._exit, open(sys.argv.pop(1)).read()
module = sys.modules["program"] = types.ModuleType("program")
sys.path[0] = ""
done = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
exec(compile(text, "program", "exec"), module.__dict__)
write(done, b"ended")
leave(0)
"""


# --- plain Python --------------------------------------------------------------------------------------------------


def plainly(program: Program) -> bool:
    """Whether a program passes its test in an ordinary process, as one text."""
    call = f"check({program.entry_point})" if program.entry_point and "\ndef check(" in f"\n{program.test}" else ""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
        path = Path(folder, "program.py")
        path.write_text(f"{program.code}\n{program.test}\n{call}\n", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-c", PLAIN, str(path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=empty,
        )  # fmt: skip
        try:
            return process.communicate(timeout=LIMITS.wall_seconds)[0] == b"ended" and process.returncode == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False


def plain_verdicts(programs: Sequence[Program], workers: int) -> list[bool]:
    with ThreadPoolExecutor(workers) as pool:
        found = []
        for passed in pool.map(plainly, programs):
            found.append(passed)
            progress(len(found), len(programs), "programs in plain Python")
        return found


# --- mutants -------------------------------------------------------------------------------------------------------


SWAPPED = [
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.FloorDiv, ast.Mod),
    (ast.Eq, ast.NotEq),
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot),
    (ast.And, ast.Or),
]
OPERATORS: dict[type, type] = {**dict(SWAPPED), **{right: left for left, right in SWAPPED}}


def changes(tree: ast.AST) -> Iterator[Callable[[], None]]:
    """Every small change that can be made to a tree."""
    for node in ast.walk(tree):
        operator = getattr(node, "op", None)
        if type(operator) in OPERATORS:
            yield lambda node=node, operator=operator: setattr(node, "op", OPERATORS[type(operator)]())
        if isinstance(node, ast.Compare):
            yield lambda node=node: node.ops.__setitem__(0, OPERATORS[type(node.ops[0])]())
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
            other = node.value + "x" if isinstance(node.value, str) else node.value + 1
            yield lambda node=node, other=other: setattr(node, "value", other)
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield lambda node=node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
        if isinstance(node, ast.If) and node.orelse:
            yield lambda node=node: node.__dict__.update(body=node.orelse, orelse=node.body)
        if isinstance(node, (ast.FunctionDef, ast.For, ast.While, ast.If)):
            for number in range(len(node.body)):
                yield lambda node=node, number=number: node.body.__setitem__(number, ast.Pass())
        if isinstance(node, ast.FunctionDef):
            yield lambda node=node: node.body.insert(len(node.body) // 2, ast.Return(ast.Constant(None)))


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def mutants(programs: Sequence[Program], number: int, seed: int) -> list[Program]:
    """Programs with one change each, drawn from all that parse."""

    programs = [program for program in programs if is_python(program.code)]
    draw, found = random.Random(seed), {}
    for _ in range(20 * number):  # some are drawn twice, or change nothing
        program = draw.choice(programs)
        tree = ast.parse(program.code)
        draw.choice([*changes(tree)])()
        code = ast.unparse(ast.fix_missing_locations(tree))
        if code != ast.unparse(ast.parse(program.code)):
            found[code, program.test] = Program(code, program.test, program.entry_point)
    return [*found.values()][:number]


# --- figures -------------------------------------------------------------------------------------------------------


def reference_sets(args: argparse.Namespace) -> dict[str, dict[str, Program]]:
    """The reference solutions of each kind of problem, by name."""
    from optimum_flab.evaluation.tasks import code, mbpp

    documents: dict[str, tuple[Sequence[dict[str, Any]], Callable[[Any], Program | None]]] = {
        "humaneval": (humaneval_problems(args.limit), code.reference_program)
    }
    if args.mbpp:
        documents["mbpp"] = (
            [*mbpp.problems(task="mbpp", file=args.mbpp, limit=args.limit)["test"]],
            mbpp.reference_program,
        )
    if args.codeharmony:
        documents["codeharmony"] = (
            [*code.problems(task="codeharmony", file=args.codeharmony, limit=args.limit)["test"]],
            code.reference_program,
        )
    solved = {
        name: {str(document["task_id"]): solve(document) for document in rows}
        for name, (rows, solve) in documents.items()
    }
    return {name: {key: one for key, one in found.items() if one is not None} for name, found in solved.items()}


def sandbox_verdicts(programs: Sequence[Program], isolation: Isolation, workers: int) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SandboxWarning)
        return run_programs(
            programs, confirm_run_unsafe_code=True, limits=LIMITS, workers=workers, isolation=isolation
        )


def compared(
    programs: dict[str, Program], plain: list[bool], isolation: Isolation, limited: dict[str, str], workers: int
) -> dict[str, Any]:
    """How many verdicts are the same, and which are not; those that the isolation forbids with the reason."""
    verdicts = sandbox_verdicts([*programs.values()], isolation, workers)
    found: dict[str, Any] = {"programs": len(programs), "plainly_passed": sum(plain), "same": 0, "different": {}}
    for name, passed, verdict in zip(programs, plain, verdicts, strict=True):
        if verdict.passed == passed:
            found["same"] += 1
        elif reason := limited.get(name) or (verdict.package and f"the package {verdict.package}"):
            found.setdefault("limited", {})[name] = f"{reason} ({verdict.status})"
        else:
            found["different"][name] = {
                "plain": passed, "sandbox": verdict.status, "detail": verdict.detail, "code": programs[name].code
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbpp", help="file in MBPP's form")
    parser.add_argument("--codeharmony", help="file with task_id, prompt, entry_point, test, canonical_solution")
    parser.add_argument("--mutants", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="only the first N problems of each set")
    parser.add_argument("--workers", type=positive, default=2, help="programs run at once (default: %(default)s)")
    args = parser.parse_args()

    sets = reference_sets(args)
    references = [program for programs in sets.values() for program in programs.values()]
    sets["mutants"] = {f"mutant {n}": one for n, one in enumerate(mutants(references, args.mutants, args.seed))}
    own = yaml.safe_load(PROGRAMS.read_text(encoding="utf-8"))
    sets["own"] = {row["name"]: Program(row["code"], row["test"], row.get("entry_point")) for row in own}
    limited = {row["name"]: row["limited"] for row in own if "limited" in row}
    plain = {name: plain_verdicts([*programs.values()], args.workers) for name, programs in sets.items()}
    found = {}
    for isolation in filter(works, candidates()):
        label = isolation.name + (", a user for each program" if isolation.own_user else "")
        found[label] = {
            name: compared(programs, plain[name], isolation, limited, args.workers) for name, programs in sets.items()
        }
        print(f"{label}: {json.dumps(found[label], indent=1)}", file=sys.stderr)
    print_result("verdicts", verdicts=found)


if __name__ == "__main__":
    main()
