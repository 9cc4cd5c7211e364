"""The model card of a pruned model, made only from the files beside its weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, FlabError
from ..records.atomic import write_files
from . import provenance, tables
from .facts import EFFICIENCY_NAME, EVALUATION_NAME, RESULT_NAMES, Facts, at, is_result, read_facts
from .metadata import Whole, rendered, written_metadata
from .ownership import BEGIN, END, is_generated, merged_metadata, metadata_of_user, signed, text_of_user, unsigned_mark
from .page import PAGE_NAME, render_page
from .plots import LAYERS_PLOT, PARAMETERS_PLOT, card_plots
from .terms import CARD_NAME, NO_ANSWERS, Answers, Fetch, Terms, remembered, settle_terms
from .typesetting import code, heading, removed_share


if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData


TEMPLATE = Path(__file__).with_name("card.md.jinja")
TAGS = ["flab-pruner", "pruned", "code", "optimum"]
# the Hub knows adapter, finetune, merge and quantized; a pruned model has changed weights of its own
RELATION = "finetune"
CAPTIONS = {
    PARAMETERS_PLOT: "Parameters by component, before and after",
    LAYERS_PLOT: "Divergence from the dense model after each removed layer",
}


@dataclass(frozen=True)
class Rendered:
    """A card that is not written yet.

    Args:
        content (`str`): metadata and text.
        plots (`dict[str, bytes]`): the images that it shows.
        terms ([`Terms`]): whose model was pruned, and its licence.
        facts ([`Facts`]): what the card was made from.
        notes (`tuple[str, ...]`): what the user should be told.
    """

    content: str
    plots: dict[str, bytes]
    terms: Terms
    facts: Facts
    notes: tuple[str, ...]

    @property
    def page(self) -> str | None:
        """The report as a page; `None` where there is none."""
        return None if self.facts.report is None else render_page(self.facts)

    @property
    def card(self) -> ModelCard:
        """The card as the Hub's library reads it."""
        from huggingface_hub import ModelCard

        return ModelCard(self.content)


def render_card(
    folder: str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    revision: str | None = None,
    results: Sequence[str | Path] | None = None,
    answers: Answers = NO_ANSWERS,
    own_text: str | None = None,
    remote_card: str | None = None,
    fetch: Fetch | None = None,
) -> Rendered:
    """Renders the card of a pruned model.

    Args:
        folder (`str` or `os.PathLike`): the folder of the pruned model.
        repo_id (`str`, *optional*): where it is pushed to, for the title and the usage example. Without it the card
            depends on the files alone, not on the folder's name: the folder may still be renamed.
        revision (`str`, *optional*): the branch that the usage example loads; `main` by default.
        results (`Sequence[str | Path]`, *optional*): folders with evaluations and efficiency; `None`: those in
            `folder`.
        answers ([`Answers`]): base model and licence, where the files do not name them.
        own_text (`str`, *optional*): the user's text; `None`: that of the card in the folder.
        remote_card (`str`, *optional*): the card in the repository: where it is one of ours, what was added to its
            metadata stays, and what it says about the same base model is not asked for again.
        fetch (`Callable`, *optional*): reads the base model's card on the Hub; without it the Hub is not asked.

    Raises:
        [`FlabError`]: a file in the folder cannot be read.
        [`ConfigurationError`]: the answers contradict the files, results hold the same score twice, or the line that
            ends the user's text is missing.
    """
    folder = Path(folder)
    before = read_card(folder / CARD_NAME)
    facts = read_facts(folder, results)
    report = facts.report
    base = None if report is None else report.base_model
    previous = remembered(before, remote_card, None if base is None else base.weights_sha256)
    terms = settle_terms(base, previous, answers, fetch)
    title = repo_id.split("/")[-1] if repo_id else f"{terms.name or 'A model'}, pruned"
    plots = card_plots(report, at(facts.settings, "layers", "criterion"))
    if own_text is None:
        own_text = text_of_user(before) if before is not None else ""
    ours = card_data(facts, terms, title).to_dict()
    weights = None if report is None else report.weights_sha256
    data, replaced = merged_metadata(ours, *(metadata_of_user(card, weights) for card in (before, remote_card)))
    content = rendered(
        TEMPLATE.read_text(encoding="utf-8"),
        written_metadata(data),
        {
            **values(facts, terms, title, plots),
            "repo_id": repo_id,
            "revision": None if revision == "main" else revision,
            "own_text": Whole(own_text),
            "begin": Whole(BEGIN),
            "end": Whole(END),
            "mark": Whole(unsigned_mark(ours)),
        },
    )
    own = {file.path.name for file in facts.gguf_files}
    others = sorted(path.name for path in folder.glob("*.gguf") if path.name not in own)
    notes = [f"{name} was not written by `flab export` from these weights: not in the card" for name in others]
    notes += [*facts.results.left_out, *terms.notes, *replaced]
    if terms.license is None:
        notes.append("the licence of the base model is not known; set `license` to what its card states")
    if terms.base_model is None:
        notes.append("the base model's repository on the Hub is not known; set `base_model` to owner/name")
    return Rendered(signed(content), plots, terms, facts, tuple(notes))


@dataclass(frozen=True)
class WrittenCard:
    """A card that was written: the file, and what the user should be told."""

    path: Path
    notes: tuple[str, ...]


def write_card(
    folder: str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    results: Sequence[str | Path] | None = None,
    answers: Answers = NO_ANSWERS,
    overwrite: bool = False,
    earlier: str | None = None,
    fetch: Fetch | None = None,
) -> WrittenCard:
    """Writes the card of a pruned model to its folder, as `README.md`, with its plots, and the report as a page.

    Results from elsewhere are copied beside the weights, so that the next card states them too; they replace those
    that were copied before.

    Args:
        overwrite (`bool`): whether a `README.md` that somebody wrote or changed may be replaced. What a user wrote
            between the two marked lines stays in any case.
        earlier (`str`, *optional*): a card of ours that this one will replace: what a user added to it stays too.

    Raises:
        [`FlabError`]: the folder cannot be written to, or holds a `README.md` that was not written by this software.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigurationError(f"folder {str(folder)!r} does not exist; name what `optimum-cli flab prune` wrote")
    before = read_card(folder / CARD_NAME)
    if before is not None and not is_generated(before) and not overwrite:
        raise FlabError(
            f"{str(folder / CARD_NAME)!r} was not written by optimum-flab, or was changed outside its marked lines;"
            " move it away, or replace it with `overwrite_card`"
        )
    made = render_card(
        folder,
        repo_id,
        results=results,
        answers=answers,
        own_text=None if earlier is None else text_of_user(earlier),
        remote_card=earlier,
        fetch=fetch,
    )
    contents: dict[str, bytes | Path] = dict(made.plots)
    if results is not None:
        contents |= result_copies(made.facts.results.files)
    if (page := made.page) is not None:
        contents[PAGE_NAME] = page.encode()
    contents[CARD_NAME] = made.content.encode()
    stale = [path for path in folder.iterdir() if results is not None and is_result(path.name)]
    stale += [folder / name for name in CAPTIONS]
    write_files(folder, contents, [path for path in stale if path.name not in contents])
    return WrittenCard(folder / CARD_NAME, made.notes)


# --- files ---------------------------------------------------------------------------------------------------------


def read_card(path: Path) -> str | None:
    """The text of a card, or `None` where there is none.

    Raises:
        [`FlabError`]: the file is not text.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FlabError(f"{str(path)!r} cannot be read ({error}); move it away") from error


def result_copies(files: Sequence[Path]) -> dict[str, Path]:
    """The names under which results are copied beside the weights, the second `flab_evaluation-2.json`."""
    copies = {}
    for name in (EVALUATION_NAME, EFFICIENCY_NAME):
        own = [path for path in files if RESULT_NAMES[name].fullmatch(path.name)]
        for number, path in enumerate(own, start=1):
            copies[name if number == 1 else f"{name[:-5]}-{number}.json"] = path
    return copies


# --- what it says --------------------------------------------------------------------------------------------------


def card_data(facts: Facts, terms: Terms, name: str) -> ModelCardData:
    """The metadata."""
    from huggingface_hub import ModelCardData

    found = eval_results(facts)
    datasets = provenance.datasets(facts)
    return ModelCardData(
        base_model=terms.base_model,
        base_model_relation=RELATION if terms.base_model else None,
        license=terms.license,
        license_name=terms.license_name,
        license_link=terms.license_link,
        language=list(terms.language) or None,
        datasets=datasets or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(TAGS),
        model_name=name if found else None,
        eval_results=found or None,
    )


def eval_results(facts: Facts) -> list[EvalResult]:
    """Every numeric score of a task, for the model-index; shares as in the file, between 0 and 1.

    The dataset is the one on the Hub where all problems come from it; otherwise it is named after the task.
    """
    from huggingface_hub import EvalResult

    found = []
    for evaluation in facts.results.evaluations:
        settings = evaluation.settings
        for row in evaluation.scores:
            value = None if row.own is None else row.own.number
            if value is None or row.of:
                continue
            dataset = settings.task_datasets.get(row.task)
            about = settings.files(row.task)
            about += [] if settings.limit is None else [f"first {settings.limit} problems"]
            found.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=row.task if dataset is None else dataset.id,
                    dataset_name=f"{row.task} ({', '.join(about)})" if about else row.task,
                    dataset_config=None if dataset is None else dataset.config,
                    dataset_split=None if dataset is None else dataset.split,
                    dataset_args=None if row.problems is None else {"problems": row.problems},
                    metric_type=row.metric,
                    metric_value=value,
                    metric_name=row.metric,
                )
            )
    return found


def values(facts: Facts, terms: Terms, title: str, plots: dict[str, bytes]) -> dict[str, Any]:
    """What the template needs."""
    report = facts.report
    base = f"[{terms.base_model}](https://huggingface.co/{terms.base_model})" if terms.base_model else None
    name = code([terms.name])[0] if terms.name else None
    base = base or name or "a dense model that the files do not name"
    return {
        "title": heading(title),
        "lead": lead(facts, base),
        "summary": [*tables.size_rows(report), *tables.retention_rows(facts)],
        "licence": licence(terms, facts.license_files),
        "removed": tables.removed_rows(report),
        "removed_layers": () if report is None else report.removed_layer_indices,
        "plots": {name: CAPTIONS[name] for name in plots},
        "evaluations": tables.evaluation_tables(facts),
        "held_out": tables.held_out_table(facts),
        "kinds": tables.kind_table(facts),
        "trained": facts.recovery is not None,
        "held_out_lead": held_out_lead(facts),
        "efficiency": tables.efficiency_table(facts.results.efficiency, report),
        "criteria": provenance.criteria(facts),
        "provenance": provenance.provenance_rows(facts, base),
        "loss_curve": facts.loss_curve,
        "architecture": facts.architecture,
        "gguf_files": [file.row for file in facts.gguf_files],
        "chat_template": facts.chat_template,
        "transformers": facts.transformers,
        "instructed": provenance.is_evaluated_in_chat(facts),
        "uses": provenance.intended_uses(facts, base),
        "beyond": provenance.beyond_its_scope(facts),
        "commands": provenance.commands(facts),
        "version": None if report is None else report.versions.get("optimum-flab"),
        "settings": provenance.settings_yaml(facts) if facts.settings else None,
        "limits": provenance.limits(facts),
        "citation": terms.citation,
        "base_model": terms.base_model,
        "base_name": name or "not named in the files",
    }


def lead(facts: Facts, base: str) -> str:
    """The first sentence."""
    trained = " and then trained" if facts.recovery else ""
    report = facts.report
    gone = None if report is None else removed_share(report.dense.parameters, report.pruned.parameters)
    body = None if report is None else report.removed_body_ratio
    of_body = "" if body is None else f" ({body:.1%} of those of its body, which is all but the vocabulary)"
    share = "" if gone is None else f" **without {gone} of its parameters**{of_body}"
    return (
        f"{base[0].upper() if base[0] == 'a' else base[0]}{base[1:]}{share}, pruned{trained} by `optimum-flab`. It is"
        " a stock checkpoint, which `transformers` loads without custom code."
    )


def licence(terms: Terms, files: Sequence[str]) -> str:
    """The licence, with a note that it is inherited; or a note that it is not known."""
    kept = f" Licence files of the base model: {', '.join(f'[{name}]({name})' for name in files)}." if files else ""
    if terms.license is None:
        return (
            "not known from the files of this model. The terms of the base model apply; see there before you use it."
            f"{kept}"
        )
    name = f"{terms.license_name} ({terms.license})" if terms.license_name else terms.license
    link = f"[{name}]({terms.license_link})" if terms.license_link else name
    return f"{link}, that of the base model.{kept}"


def held_out_lead(facts: Facts) -> str:
    """What the held-out measurements were taken on."""
    held_out = None if facts.report is None else facts.report.held_out
    if held_out is None:
        return ""
    other = "were not trained on" if facts.recovery else "decided nothing in the pruning"
    return f"Measured on {held_out.texts:,} texts ({held_out.positions:,} predicted tokens) that {other}."
