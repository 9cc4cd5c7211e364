"""The model card of a pruned model, made from the files beside its weights, and where those do not state
the base model's licence from that model's card on the Hub."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..records.atomic import write_files
from ..records.names import CARD_NAME, PAGE_NAME, is_result
from ..records.results import EFFICIENCY_NAME, EVALUATION_NAME
from ..records.verdict import verdict_of
from ..settings.hub import CardSettings, TermsSettings
from . import provenance, tables
from .facts import Facts, read_facts
from .frame import (
    BEGIN,
    END,
    MARK,
    RELATION,
    RenderedReport,
    Whole,
    checksum,
    is_generated,
    license_text,
    metadata_of,
    render,
    replaceable_card,
    text_of_user,
    with_additions,
)
from .markdown import cell, code
from .page import render_page
from .terms import Terms, settle_terms


if TYPE_CHECKING:
    from huggingface_hub import EvalResult


TEMPLATE = Path(__file__).with_name("card.md.jinja")


def render_card(
    folder: Path,
    stated: TermsSettings,
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    results: Sequence[str] | None = None,
    earlier: Sequence[str] = (),
    ask_hub: bool = True,
) -> RenderedReport:
    """Renders the card of a pruned model.

    Args:
        folder (`Path`): of the pruned model.
        stated ([`TermsSettings`]): base model and licence, where the files do not name them.
        repo_id (`str`, *optional*): where it is pushed to, for the title and the usage example. Without it the card
            depends on the files alone, not on the folder's name: the folder may still be renamed.
        revision (`str`, *optional*): the branch that the usage example loads; `main` by default.
        results (`Sequence[str]`, *optional*): folders with evaluations and efficiency; `None`: those in `folder`.
        earlier (`Sequence[str]`): the cards that this one replaces: what a user added to those of ours stays.
        ask_hub (`bool`): whether the Hub may be asked for the base model's card, where the licence is not known.

    Raises:
        [`FlabError`]: a file in the folder cannot be read.
        [`ConfigurationError`]: the user contradicts the files, results hold the same score twice, or the line that
            ends the user's text is missing.
    """
    facts = read_facts(folder, results)
    own = [card for card in earlier if is_generated(card)]
    base = facts.report.base_model
    known = [metadata_of(card) for card in own if base.weights_sha256 in card]
    terms = settle_terms(base, stated, ChainMap(*known), ask_hub)
    title = repo_id.split("/")[-1] if repo_id else f"{terms.name}, pruned"
    name = code([terms.name])
    data = card_data(facts, terms, title)
    for card in own:
        data = with_additions(data, card)
    mark = MARK.format("0" * 64)
    text = render(
        TEMPLATE,
        {
            "card_data": Whole(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).strip()),
            "facts": facts,
            "report": facts.report,
            "verdict": verdict_of(facts.report),
            "terms": terms,
            "tables": tables,
            "provenance": provenance,
            "title": cell(title),
            "license": license_text(terms, facts.license_files),
            "name": name,
            "base": f"[{terms.base_model}](https://huggingface.co/{terms.base_model})" if terms.base_model else name,
            "repo_id": repo_id,
            "revision": None if revision == "main" else revision,
            "mark": Whole(mark),
            "begin": Whole(BEGIN),
            "own_text": Whole(next(filter(None, map(text_of_user, earlier)), "")),
            "end": Whole(END),
        },
    )
    others = sorted(path.name for path in folder.glob("*.gguf") if path.name not in facts.gguf_files)
    notes = [f"{name} was not written by `flab export` from these weights: not in the card" for name in others]
    notes += [*facts.left_out, *terms.notes]
    text = text.replace(mark, mark.replace("0" * 64, checksum(text)))
    return RenderedReport(text, terms, tuple(notes), render_page(facts.report, facts.evaluations), facts)


def write_card(
    folder: Path, settings: CardSettings | None = None, *, earlier: str | None = None, ask_hub: bool = True
) -> tuple[str, ...]:
    """Writes the card of a pruned model to its folder, as `README.md`, and the report as a page.

    Results from elsewhere are copied beside the weights, so that the next card states them too; they replace those
    that were copied before.

    Args:
        settings ([`CardSettings`], *optional*): what it shows.
        earlier (`str`, *optional*): a card elsewhere that this one replaces: what a user added to it stays, as with
            that in the folder.
        ask_hub (`bool`): see [`render_card`].

    Returns:
        `tuple[str, ...]`: what the user should be told.

    Raises:
        [`FlabError`]: the folder cannot be written to, or holds a `README.md` that was not written by this software.
    """
    settings = settings or CardSettings()
    before = replaceable_card(folder, settings)
    card = render_card(
        folder,
        settings,
        repo_id=settings.repo_id,
        results=settings.results,
        earlier=[card for card in (before, earlier) if card is not None],
        ask_hub=ask_hub,
    )
    contents: dict[str, bytes] = {}
    if settings.results is not None:
        for name in (EVALUATION_NAME, EFFICIENCY_NAME):
            own = [path for path in card.facts.result_files if path.name.startswith(name[:-5])]
            copies = [name, *(f"{name[:-5]}-{number}.json" for number in range(2, len(own) + 1))]
            contents |= {copy: path.read_bytes() for copy, path in zip(copies, own, strict=False)}
    contents |= {PAGE_NAME: card.page.encode(), CARD_NAME: card.text.encode()}
    stale = [path for path in folder.iterdir() if settings.results is not None and is_result(path.name)]
    write_files(folder, contents, [path for path in stale if path.name not in contents])
    return card.notes


# --- what it says --------------------------------------------------------------------------------------------------


def card_data(facts: Facts, terms: Terms, name: str) -> dict[str, Any]:
    """The metadata."""
    from huggingface_hub import ModelCardData

    scores = eval_results(facts)
    return ModelCardData(
        base_model=terms.base_model,
        base_model_relation=RELATION if terms.base_model else None,
        license=terms.license,
        license_name=terms.license_name,
        license_link=terms.license_link,
        language=list(terms.language) or None,
        datasets=provenance.datasets(facts) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["flab-pruner", "pruned", "code", "optimum"],
        model_name=name if scores else None,
        eval_results=scores or None,
    ).to_dict()


def eval_results(facts: Facts) -> list[EvalResult]:
    """Every numeric score of a task, for the model-index; shares as in the file, between 0 and 1.

    The dataset is the one on the Hub where all problems come from it; otherwise it is named after the task.
    """
    from huggingface_hub import EvalResult

    results = []
    for evaluation in facts.evaluations:
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
