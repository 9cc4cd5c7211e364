"""Robustness: the same problems with perturbed prompts.

A problem is robustly solved if it passes under every perturbation. Its clean counterparts are the unperturbed prompts;
where a perturbed prompt already holds part of the solution, as in ReCode's format and natgen files, so does its clean
counterpart, so that the drop measures the perturbation alone. A file with prompts that have no such counterpart is
refused.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FlabError
from ..data import CODE, any_text, as_dataset, behind_docstring, checked, located, read_file, source, tokens_of
from .code import humaneval_rows
from .perturbations import ON_THE_FLY, renamed


if TYPE_CHECKING:
    from datasets import Dataset


CLEAN = "clean"
SPLIT = "@@this is the line to split##"  # the mark with which ReCode divides a solution
# rows of ReCode's files have the clean prompt in `partial`: up to the line with the mark
PERTURBED = replace(
    CODE,
    optional={**CODE.optional, "partial": any_text},
    defaults={**CODE.defaults, "partial": ""},
    cleaned={**CODE.cleaned, "partial": source},
)
# how two ways to write the same code differ: brackets and commas, and which side of a comparison comes first
FREE, TURNED = frozenset("(),;"), {">": "<", ">=": "<="}


def problems(
    *,
    task: str = "recode",
    file: str | list[str] | None = None,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """Prompts of all variants, those of each problem in succession.

    Args:
        file (`str` or `list[str]`, *optional*): files with perturbed prompts, each named after its perturbation; one
            named `clean` holds the clean prompts (default: HumanEval). Without perturbed files, simple perturbations
            are made on the fly.
        limit (`int`, *optional*): how many problems are taken, from the first.
    """
    named = [file] if isinstance(file, str) else list(file or [])
    files = [located(path, config_source) for path in named]
    clean_file = next((path for path in files if variant_name(path) == CLEAN), None)
    rows = read_file(clean_file) if clean_file else humaneval_rows(task)
    clean = {row["task_id"]: row for row in checked(rows, CODE)}
    perturbed = [path for path in files if path is not clean_file]
    variants = [read_variant(path, clean) for path in perturbed] if perturbed else [made_variants(clean)]
    together = {}
    for problem in clean:
        if all(problem in variant for variant in variants):
            together[problem] = [document for variant in variants for document in variant[problem]]
    if not together:
        raise FlabError(
            f"task {task!r}: no problem is in every file of perturbed prompts; name files that go together"
        )
    chosen = list(together.items())[:limit]
    return as_dataset([doc for problem, perturbed in chosen for doc in with_clean(clean[problem], perturbed)], None)


def variant_name(path: Path) -> str:
    """`recode_func_name.jsonl.gz` -> `func_name`."""
    return path.name.split(".", 1)[0].removeprefix("recode_")


def read_variant(path: Path, clean: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The perturbed prompts of a file by problem; there may be several for one problem.

    Each has under `given` the part of the clean solution that it gives away, see [`given_part`].

    Raises:
        [`FlabError`]: a row is malformed, or gives away more or less than any clean prompt would.
    """
    rows = read_file(path)
    found: dict[str, list[dict[str, Any]]] = {}
    unequal = []
    for row, document in zip(rows, checked(rows, PERTURBED, unique=False), strict=True):
        problem = document["task_id"]
        if problem not in clean:
            raise FlabError(
                f"{row.place}: field 'task_id' is malformed: there is no clean problem {problem!r};"
                f" name the file of the clean prompts {CLEAN}.jsonl and pass it too"
            )
        given = given_part(clean[problem], document)
        if given is None:
            unequal.append(f"{problem} in {row.place.removeprefix(f'{path}, ')}")
        del document["partial"]
        found.setdefault(problem, []).append({**document, "variant": variant_name(path), "given": given})
    if unequal:
        raise FlabError(
            f"data file {str(path)!r}: {len(unequal)} of {len(rows)} prompts give more or less of the solution away"
            f" than any clean prompt that can be made for them ({unequal[0]}, for example), so a comparison would"
            " favour one of the two; keep ReCode's field 'partial' in the rows, pass the matching clean prompts as"
            f" {CLEAN}.jsonl, or leave these problems out of the file"
        )
    return found


def made_variants(clean: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Perturbed prompts by problem, made on the fly from the clean ones; they give none of the solution away."""
    made: dict[str, list[dict[str, Any]]] = {}
    for problem, row in clean.items():
        for name, change in ON_THE_FLY.items():
            if changed := change(row["prompt"], row["entry_point"]):
                prompt, entry_point = changed
                # a test may also call the function by name
                test = renamed(row["test"], row["entry_point"], entry_point)
                document = {
                    **row,
                    "prompt": prompt,
                    "entry_point": entry_point,
                    "test": test,
                    "variant": name,
                    "given": "",
                }
                made.setdefault(problem, []).append(document)
    return made


def with_clean(clean: Mapping[str, Any], perturbed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The clean counterparts of the perturbed prompts of a problem, each once, followed by the perturbed ones."""
    documents = []
    for given in dict.fromkeys(document["given"] for document in perturbed):
        prompt, rest = clean["prompt"] + given, clean["canonical_solution"][len(given) :]
        documents.append({**clean, "prompt": prompt, "canonical_solution": rest, "variant": CLEAN, "perturbed": False})
    for document in perturbed:
        documents.append({name: value for name, value in document.items() if name != "given"} | {"perturbed": True})
    return documents


# --- what a prompt gives away --------------------------------------------------------------------------------------


def given_part(clean: Mapping[str, Any], perturbed: Mapping[str, Any]) -> str | None:
    """The first lines of the clean solution that give away as much as the code in a perturbed prompt.

    Args:
        clean, perturbed (`Mapping`): with the fields `prompt`, `entry_point` and `canonical_solution` (what continues
            the prompt).

    Returns:
        `str`, without code where the prompts hold the same code, or `None` where no part is known to be equivalent.
    """
    theirs, ours = _code_given(perturbed), _code_given(clean)
    if _equal(theirs, ours):
        blank = _part_before_the_same_text(clean, perturbed) or ""
        return "" if blank.strip() else blank
    if not theirs:
        return None
    prompt, whole = clean["prompt"], clean["canonical_solution"]
    lines = io.StringIO(whole).readlines()
    before, mark, _ = perturbed.get("partial", "").partition(SPLIT)
    named = before[: before.rfind("\n") + 1]
    if mark and (prompt + whole).startswith(named) and len(named) >= len(prompt):
        return named[len(prompt) :]
    if SPLIT in perturbed["canonical_solution"] and not ours:
        return "".join(lines[: len(lines) // 2])  # ReCode gives away half of the lines, rounded down
    part = _part_before_the_same_text(clean, perturbed) or _part_before_the_same_code(clean, perturbed)
    # with the whole solution after it, how much the code of a prompt gives away is not known
    return part or None


def _part_before_the_same_text(clean: Mapping[str, Any], perturbed: Mapping[str, Any]) -> str | None:
    whole, rest = clean["canonical_solution"].rstrip(), perturbed["canonical_solution"].rstrip()
    part = whole.removesuffix(rest)
    return part if rest and part != whole and (not part or part.endswith("\n")) else None


def _part_before_the_same_code(clean: Mapping[str, Any], perturbed: Mapping[str, Any]) -> str | None:
    """The clean solution without the tokens at its end that it shares with the rest of the perturbed one."""
    ours, theirs = _code_behind(clean), _code_behind(perturbed)
    given = len(ours) - len(theirs)
    if not theirs or given < 0 or not _equal(ours[given:], theirs):
        return None
    behind = clean["prompt"].count("\n")
    last = ours[given - 1].end[0] if given else behind  # line of the last token that is given away
    if last >= ours[given].start[0]:
        return None
    return "".join(io.StringIO(clean["canonical_solution"]).readlines()[: last - behind])


def _code_given(row: Mapping[str, Any]) -> list[tokenize.TokenInfo]:
    """The tokens of code in a prompt from the body of the function; text such as a docstring does not count."""
    # natgen sometimes loses the indentation, so what follows the function counts
    tokens = behind_docstring(row["prompt"], row["entry_point"])
    texts = ('"""', "'''")
    return _in_one_way(
        token for token in tokens if token.string not in ("pass", "...") and not token.string.endswith(texts)
    )


def _code_behind(row: Mapping[str, Any]) -> list[tokenize.TokenInfo]:
    """The tokens of a solution that follow its prompt, read together with it."""
    behind = row["prompt"].count("\n")
    return _in_one_way(
        token for token in tokens_of(row["prompt"] + row["canonical_solution"]) if token.start[0] > behind
    )


def _in_one_way(tokens: Iterable[tokenize.TokenInfo]) -> list[tokenize.TokenInfo]:
    """Tokens without those in which two ways to write the same code differ."""
    found = []
    for token in tokens:
        text = TURNED.get(token.string, token.string.replace("'", '"'))
        if token.type in (tokenize.STRING, tokenize.NUMBER):
            with suppress(ValueError, SyntaxError):
                text = repr(ast.literal_eval(token.string))
        if text not in FREE:
            found.append(token._replace(string=text))
    return found


def _equal(first: Sequence[tokenize.TokenInfo], second: Sequence[tokenize.TokenInfo]) -> bool:
    """Whether tokens are the same except for the order of operands or the names of variables."""
    if sorted(token.string for token in first) == sorted(token.string for token in second):
        return True
    return _with_numbered_names(first) == _with_numbered_names(second)


def _with_numbered_names(tokens: Sequence[tokenize.TokenInfo]) -> list[str | int]:
    numbers: dict[str, int] = {}
    return [
        numbers.setdefault(token.string, len(numbers))
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        else token.string
        for token in tokens
    ]


def score(doc: Mapping[str, Any], results: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
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
