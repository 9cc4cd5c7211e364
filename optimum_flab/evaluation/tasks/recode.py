"""Robustness: the same problems with perturbed prompts.

A problem is robustly solved if it passes under every perturbation. Its clean counterparts are the unperturbed prompts;
where a perturbed prompt already holds a part of the solution, as in ReCode's format and syntax files, so does its
clean counterpart, so that the drop measures the perturbation alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FlabError
from ..data import CODE, as_dataset, checked, located, read_file
from .code import humaneval_rows
from .perturbations import ON_THE_FLY, renamed


if TYPE_CHECKING:
    from datasets import Dataset


CLEAN = "clean"


def problems(
    *,
    task: str = "recode",
    file: str | list[str] | None = None,
    limit: int | None = None,
    config_source: str | None = None,
    **_: Any,
) -> dict[str, Dataset]:
    """Prompts of all variants, the ones of a problem behind each other.

    Args:
        file (`str` or `list[str]`, *optional*): files with perturbed prompts, each named after its perturbation; one
            named `clean` holds the clean prompts (default: HumanEval). Without perturbed files, simple perturbations
            are made on the fly.
        limit (`int`, *optional*): first so many problems.
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
    """The perturbed prompts of a file by problem; there may be several of one problem."""
    rows = read_file(path)
    found: dict[str, list[dict[str, Any]]] = {}
    for row, document in zip(rows, checked(rows, CODE, unique=False), strict=True):
        if document["task_id"] not in clean:
            raise FlabError(
                f"{row.place}: field 'task_id' is malformed: there is no clean problem {document['task_id']!r};"
                f" name the file of the clean prompts {CLEAN}.jsonl and give it as well"
            )
        found.setdefault(document["task_id"], []).append({**document, "variant": variant_name(path)})
    return found


def made_variants(clean: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    made: dict[str, list[dict[str, Any]]] = {}
    for problem, row in clean.items():
        for name, change in ON_THE_FLY.items():
            if changed := change(row["prompt"], row["entry_point"]):
                prompt, entry_point = changed
                # a test may call the function by its name as well
                test = renamed(row["test"], row["entry_point"], entry_point)
                document = {**row, "prompt": prompt, "entry_point": entry_point, "test": test, "variant": name}
                made.setdefault(problem, []).append(document)
    return made


def with_clean(clean: Mapping[str, Any], perturbed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The clean prompts that belong to perturbed ones of a problem, each once, and then these."""
    prompts = dict.fromkeys(clean["prompt"] + given_part(clean, document) for document in perturbed)
    return [
        *({**clean, "prompt": prompt, "variant": CLEAN, "perturbed": False} for prompt in prompts),
        *({**document, "perturbed": True} for document in perturbed),
    ]


def given_part(clean: Mapping[str, Any], perturbed: Mapping[str, Any]) -> str:
    """The part of the solution that a perturbed prompt gives away; empty where that cannot be told."""
    whole, rest = clean["canonical_solution"].rstrip(), perturbed["canonical_solution"].rstrip()
    if not rest or rest == whole or not whole.endswith(rest):
        return ""
    part = clean["canonical_solution"][: len(whole) - len(rest)]
    return part if part.endswith("\n") else ""


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
