"""Robustness: the same problems with perturbed prompts.

A problem is robustly solved if it passes under every perturbation. Its clean counterparts are the unperturbed prompts;
where a perturbed prompt already holds part of the solution, as in ReCode's format and natgen files, so does its clean
counterpart, so that the drop measures the perturbation alone. A file with prompts that have no such counterpart is
refused.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ...utils.errors import FlabError
from ..data import as_dataset, check_rows, find_data_file, read_file
from ..problems import CodeProblem, Doc, PerturbedProblem
from ..source import behind_docstring
from .code import humaneval_rows


CLEAN = "clean"
SPLIT = "@@this is the line to split##"  # the mark with which ReCode divides a solution


def problems(
    *,
    task: str,
    file: str | list[str] | None = None,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """Prompts of all variants, those of each problem in succession.

    Args:
        file (`str` or `list[str]`, *optional*): files with perturbed prompts, each named after its perturbation; one
            named `clean` holds the clean prompts (default: HumanEval). Without perturbed files, simple perturbations
            are made on the fly.
        limit (`int`, *optional*): how many problems are taken, from the first.
    """
    named = [file] if isinstance(file, str) else list(file or [])
    files = [find_data_file(path, config_source) for path in named]
    clean_file = next((path for path in files if variant_name(path) == CLEAN), None)
    rows = read_file(clean_file) if clean_file else humaneval_rows(task=task)
    clean = {row["task_id"]: row for row in check_rows(rows, CodeProblem)}
    variants = [read_variant(path, clean) for path in files if path is not clean_file] or [make_variants(clean)]
    together = [problem for problem in clean if all(problem in variant for variant in variants)]
    if not together:
        raise FlabError(
            f"task {task!r}: no problem is in every file of perturbed prompts; name files that go together"
        )
    documents = []
    for problem in together[:limit]:
        documents += with_clean(clean[problem], [document for variant in variants for document in variant[problem]])
    return as_dataset(documents)


def variant_name(path: Path) -> str:
    """`recode_func_name.jsonl.gz` -> `func_name`."""
    return path.name.split(".", 1)[0].removeprefix("recode_")


def read_variant(path: Path, clean: Mapping[str, Doc]) -> dict[str, list[dict[str, Any]]]:
    """The perturbed prompts of a file by problem; there may be several for one problem.

    Each has under `given` the part of the clean solution that it gives away, see [`solution_prefix`].

    Raises:
        [`FlabError`]: a row is malformed, or gives away more or less than any clean prompt would.
    """
    rows = read_file(path)
    variants: dict[str, list[dict[str, Any]]] = {}
    unequal = []
    for row, document in zip(rows, check_rows(rows, PerturbedProblem, unique=False), strict=True):
        problem = document["task_id"]
        if problem not in clean:
            raise FlabError(
                f"{row.place}: field 'task_id' is malformed: there is no clean problem {problem!r};"
                f" name the file of the clean prompts {CLEAN}.jsonl and pass it too"
            )
        beginning = solution_prefix(clean[problem], document)
        if beginning is None:
            unequal.append(f"{problem} in {row.place.removeprefix(f'{path}, ')}")
        del document["partial"]
        variants.setdefault(problem, []).append({**document, "variant": variant_name(path), "given": beginning})
    if unequal:
        raise FlabError(
            f"data file {str(path)!r}: {len(unequal)} of {len(rows)} prompts give more or less of the solution away"
            f" than any clean prompt that can be made for them ({unequal[0]}, for example), so a comparison would"
            " favour one of the two; keep ReCode's field 'partial' in the rows, pass the matching clean prompts as"
            f" {CLEAN}.jsonl, or leave these problems out of the file"
        )
    return variants


def make_variants(clean: Mapping[str, Doc]) -> dict[str, list[dict[str, Any]]]:
    """Perturbed prompts by problem, made on the fly from the clean ones; they give none of the solution away."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for problem, row in clean.items():
        for name, change in ON_THE_FLY.items():
            if changed := change(row["prompt"], row["entry_point"]):
                prompt, entry_point = changed
                # a test may also call the function by name
                test = rename(row["test"], row["entry_point"], entry_point)
                changes = {"prompt": prompt, "entry_point": entry_point, "test": test, "variant": name, "given": ""}
                variants.setdefault(problem, []).append({**row, **changes})
    return variants


def with_clean(clean: Doc, perturbed: Sequence[Doc]) -> list[dict[str, Any]]:
    """The clean counterparts of the perturbed prompts of a problem, each once, followed by the perturbed ones."""
    documents = []
    for beginning in dict.fromkeys(document["given"] for document in perturbed):
        prompt = clean["prompt"] + beginning
        rest = clean["canonical_solution"][len(beginning) :]
        documents.append({**clean, "prompt": prompt, "canonical_solution": rest, "variant": CLEAN, "perturbed": False})
    for document in perturbed:
        documents.append({name: value for name, value in document.items() if name != "given"} | {"perturbed": True})
    return documents


# --- perturbations made on the fly ---------------------------------------------------------------------------------


def docstring_as_comments(prompt: str, entry_point: str) -> tuple[str, str] | None:
    """The docstring of the function as comment lines."""

    def commented(_: str, docstring: str, indent: str) -> str:
        return "".join(f"{indent}# {line.strip()}".rstrip() + "\n" for line in docstring.splitlines())

    return _with_docstring(prompt, entry_point, commented)


def docstring_quotes(prompt: str, entry_point: str) -> tuple[str, str] | None:
    """The docstring of the function in the other kind of triple quotes."""

    def requoted(source: str, *_: str) -> str | None:
        for old, new in (('"""', "'''"), ("'''", '"""')):
            if source.count(old) == 2 and new not in source and new[0] not in source.replace(old, "")[-2:]:
                return source.replace(old, new)
        return None

    return _with_docstring(prompt, entry_point, requoted)


def _with_docstring(
    prompt: str, entry_point: str, rewrite: Callable[[str, str, str], str | None]
) -> tuple[str, str] | None:
    """A prompt with the docstring of the function rewritten: from its lines, its text and its indentation."""
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError):
        return None
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == entry_point]
    docstring = ast.get_docstring(functions[-1]) if functions else None
    if docstring is None:
        return None
    node = functions[-1].body[0]
    lines = prompt.splitlines(keepends=True)
    source = "".join(lines[node.lineno - 1 : node.end_lineno])
    changed = rewrite(source, docstring, " " * node.col_offset)
    if changed is None:
        return None
    return "".join([*lines[: node.lineno - 1], changed, *lines[node.end_lineno :]]), entry_point


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


# --- what a prompt gives away --------------------------------------------------------------------------------------


def solution_prefix(clean: Doc, perturbed: Doc) -> str | None:
    """The first lines of the clean solution that give away as much as the code in a perturbed prompt.

    Args:
        clean, perturbed (`Mapping`): with the fields `prompt`, `entry_point` and `canonical_solution` (what continues
            the prompt).

    Returns:
        `str`: or `None` where no part is known to be equivalent.
    """
    whole = clean["canonical_solution"]
    rest = perturbed["canonical_solution"]
    part = whole.rstrip().removesuffix(rest.rstrip())
    gives_away = _holds_code(perturbed) and not _holds_code(clean)
    if rest.strip() and (part.endswith("\n") if part else not gives_away) and len(part) < len(whole.rstrip()):
        return part  # the rest of the solution is the same text, as in ReCode's format and function name files
    if not gives_away:
        return ""
    before, mark, _ = perturbed["partial"].partition(SPLIT)
    named = before[: before.rfind("\n") + 1]
    if mark and (clean["prompt"] + whole).startswith(named) and len(named) >= len(clean["prompt"]):
        return named[len(clean["prompt"]) :]
    if SPLIT in rest:
        lines = io.StringIO(whole).readlines()
        return "".join(lines[: len(lines) // 2])  # ReCode gives away half of the lines, rounded down
    return None  # with the whole solution after it, how much the code of a prompt gives away is not known


def _holds_code(row: Doc) -> bool:
    """Whether a prompt holds code of the function; a docstring does not count."""
    # natgen sometimes loses the indentation, so what follows the function counts
    tokens = behind_docstring(row["prompt"], row["entry_point"])
    return any(token.string not in ("pass", "...") and not token.string.endswith(('"""', "'''")) for token in tokens)


def score(doc: Doc, results: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Terms of the scores over problems, and a plain pass@1 per variant."""
    (verdicts,) = results
    passed = float(verdicts[0]["passed"])
    item = [doc["task_id"], doc["perturbed"], passed]
    return {
        "clean_pass@1": item,
        "robust_pass@1": item,
        "robustness_drop": item,
        **({f"pass@1[{doc['variant']}]": passed} if doc["perturbed"] else {}),
    }
