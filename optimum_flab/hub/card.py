"""The model card of a pruned or trimmed model, made from the files beside its weights, and where those do not state
the base model's licence from that model's card on the Hub."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..records import rows
from ..records.atomic import write_files
from ..records.checkpoint import Checkpoint
from ..records.names import CARD_NAME, is_result
from ..records.results import EFFICIENCY_NAME, EVALUATION_NAME, rounds_text
from ..records.verdict import file_verdicts, verdict_of
from ..settings.hub import CardSettings, TermsSettings
from ..utils.errors import FlabError
from ..utils.version import ADDRESS
from . import provenance, tables, trimmed
from .frame import (
    RELATION,
    RawText,
    Rendered,
    fill,
    is_generated,
    license_text,
    metadata_of,
    text_of_user,
    with_additions,
)
from .markdown import cell, code
from .page import render_page
from .terms import Terms, resolve_terms


if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from ..records.report import Report


TEMPLATE = Path(__file__).with_name("card.md.jinja")


@dataclass(frozen=True)
class CardRequest:
    """What is asked of a card, besides what the files say.

    Args:
        stated ([`TermsSettings`]): base model and licence, where the files do not name them.
        repo_id (`str`, *optional*): where it is pushed to, for the title and the usage example. Without it the card
            depends on the files alone, not on the folder's name: the folder may still be renamed.
        revision (`str`, *optional*): the branch that the usage example loads; `main` by default.
        earlier (`Sequence[str]`): the cards that this one replaces: what a user added to those of ours stays.
        ask_hub (`bool`): whether the Hub may be asked for the base model's card, where the licence is not known.
    """

    stated: TermsSettings
    repo_id: str | None = None
    revision: str | None = None
    earlier: Sequence[str] = ()
    ask_hub: bool = True


def render_card(checkpoint: Checkpoint, request: CardRequest) -> Rendered:
    """Renders the card of a pruned or trimmed model.

    Raises:
        [`FlabError`]: a file in the folder cannot be read.
        [`ConfigurationError`]: the user contradicts the files, results hold the same score twice, or the line that
            ends the user's text is missing.
    """
    is_trimmed = checkpoint.is_trimmed
    report = checkpoint.trim if is_trimmed else checkpoint.report
    base = checkpoint.trim.base if is_trimmed else checkpoint.report.base_model
    own = [card for card in request.earlier if is_generated(card)]
    known = [metadata_of(card) for card in own if base.weights_sha256 in card]
    terms = resolve_terms(base, request.stated, ChainMap(*known), request.ask_hub)
    name = code([terms.name])
    done = "trimmed" if is_trimmed else "pruned"
    title = request.repo_id.split("/")[-1] if request.repo_id else f"{terms.name}, {done}"
    data = trimmed.trimmed_metadata(checkpoint.trim, terms) if is_trimmed else card_data(checkpoint, terms, title)
    for card in own:
        data = with_additions(data, card)
    current = None if is_trimmed else checkpoint.current_report
    text = fill(
        trimmed.TEMPLATE if is_trimmed else TEMPLATE,
        {
            "card_data": RawText(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).strip()),
            "checkpoint": checkpoint,
            "report": report,
            "verdict": None if is_trimmed else verdict_of(checkpoint.report),
            **_files(checkpoint, current, request),
            "is_gguf": is_trimmed and trimmed.gguf_of(checkpoint.trim) is not None,
            "software": f"[`optimum-flab`]({ADDRESS})" if ADDRESS else "`optimum-flab`",
            "address": ADDRESS,
            "rounds_text": rounds_text,
            "terms": terms,
            "rows": rows,
            "tables": tables,
            "cell": cell,
            "code": code,
            "sources": lambda named: provenance.sources_text(named, checkpoint),
            "provenance": provenance,
            "title": cell(title),
            "license": license_text(terms, checkpoint.license_files),
            "name": name,
            "base": f"[{terms.base_model}](https://huggingface.co/{terms.base_model})" if terms.base_model else name,
            "repo_id": request.repo_id,
            "revision": None if request.revision == "main" else request.revision,
            "own_text": RawText(next(filter(None, map(text_of_user, request.earlier)), "")),
        },
    )
    if current is None:
        return Rendered(text, terms, terms.notes)
    others = sorted(path.name for path in checkpoint.folder.glob("*.gguf") if path.name not in checkpoint.gguf_files)
    notes = [f"{name} was not written by `flab export` from these weights: not in the card" for name in others]
    notes += [*checkpoint.other_results.values(), *terms.notes]
    return Rendered(text, terms, tuple(notes), render_page(current, checkpoint.evaluations))


def _files(checkpoint: Checkpoint, report: Report | None, request: CardRequest) -> dict[str, Any]:
    """What a card says of GGUF files: those that were measured, what to expect of them, the one that it begins with,
    and how one is run."""
    if report is None:
        name = trimmed.gguf_of(checkpoint.trim)
        run = [] if name is None else tables.run_commands(checkpoint, name, request.repo_id, request.revision)
        return {"measured": {}, "run": run}
    measured = {file.name: file for file in report.files if file.name in checkpoint.gguf_files}
    verdicts = {name: said for name, said in file_verdicts(report).items() if name in measured}
    against = [file for file in measured.values() if file.against == "dense"]
    lead = min(against, key=lambda file: file.bytes, default=None)
    shown = lead.name if lead else next(iter(checkpoint.gguf_files), None)
    run = [] if shown is None else tables.run_commands(checkpoint, shown, request.repo_id, request.revision)
    return {"measured": measured, "file_verdicts": verdicts, "lead": lead, "run": run}


def write_card(
    checkpoint: Checkpoint,
    settings: CardSettings | None = None,
    *,
    earlier: str | None = None,
    ask_hub: bool = True,
) -> tuple[str, ...]:
    """Writes the card of a pruned or trimmed model to its folder, as `README.md`, and the report of a pruned one as a
    page.

    Results from elsewhere are copied beside the weights, so that the next card states them too; they replace those
    that were copied before.

    Args:
        settings ([`CardSettings`], *optional*): what it shows, besides the checkpoint's results.
        earlier (`str`, *optional*): a card elsewhere that this one replaces: what a user added to it stays, as with
            that in the folder.
        ask_hub (`bool`): see [`CardRequest`].

    Returns:
        `tuple[str, ...]`: what the user should be told.

    Raises:
        [`FlabError`]: the folder cannot be written to, or holds a `README.md` that was not written by this software.
    """
    settings = settings or CardSettings()
    before = checkpoint.card
    if before is not None and not is_generated(before) and not settings.overwrite_card:
        raise FlabError(
            f"{str(checkpoint.folder / CARD_NAME)!r} was not written by optimum-flab, or was changed outside its"
            " marked lines; move it away, or replace it with `overwrite_card`"
        )
    cards = [card for card in (before, earlier) if card is not None]
    card = render_card(checkpoint, CardRequest(settings, settings.repo_id, earlier=cards, ask_hub=ask_hub))
    contents = dict[str, bytes]()
    stale = list[Path]()
    if checkpoint.places is not None and not checkpoint.is_trimmed:
        for name in (EVALUATION_NAME, EFFICIENCY_NAME):
            own = [path for path in checkpoint.result_files if path.name.startswith(name[:-5])]
            copies = [name, *(f"{name[:-5]}-{number}.json" for number in range(2, len(own) + 1))]
            contents |= {copy: path.read_bytes() for copy, path in zip(copies, own, strict=False)}
        there = (path for path in checkpoint.folder.iterdir() if is_result(path.name))
        stale = [path for path in there if path.name not in contents]
    write_files(checkpoint.folder, {**contents, **card.files}, stale)
    return card.notes


# --- what it says --------------------------------------------------------------------------------------------------


def card_data(checkpoint: Checkpoint, terms: Terms, name: str) -> dict[str, Any]:
    """The metadata."""
    from huggingface_hub import ModelCardData

    scores = eval_results(checkpoint)
    return ModelCardData(
        base_model=terms.base_model,
        base_model_relation=RELATION if terms.base_model else None,
        license=terms.license,
        license_name=terms.license_name,
        license_link=terms.license_link,
        language=list(terms.language) or None,
        datasets=provenance.datasets(checkpoint) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["flab-pruner", "pruned", "code", "optimum"],
        model_name=name if scores else None,
        eval_results=scores or None,
    ).to_dict()


def eval_results(checkpoint: Checkpoint) -> list[EvalResult]:
    """Every numeric score of a task, for the model-index; shares as in the file, between 0 and 1.

    The dataset is the one on the Hub where all problems come from it; otherwise it is named after the task.
    """
    from huggingface_hub import EvalResult

    results = []
    for evaluation in checkpoint.evaluations:
        settings = evaluation.settings
        for row in evaluation.scores:
            if row.own is None or row.of is not None or row.own.value != row.own.value:
                continue
            dataset = settings.task_datasets.get(row.task)
            about = settings.sources_of(row.task) if row.task in settings.data else []
            about += [] if settings.limit is None else [f"first {settings.limit} problems"]
            results.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=row.task if dataset is None else dataset.id,
                    dataset_name=f"{row.task} ({', '.join(about)})" if about else row.task,
                    dataset_config=None if dataset is None else dataset.config,
                    dataset_split=None if dataset is None else dataset.split,
                    dataset_args={"problems": row.problems},
                    metric_type=row.metric,
                    metric_value=row.own.value,
                    metric_name=row.metric,
                )
            )
    return results
