"""The card of a trimmed model, and what of its folder is published."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..records.atomic import write_files
from ..records.names import CARD_NAME, is_license_file
from ..records.plan import PLAN_NAME
from ..records.report import Base, BaseCard
from ..records.trim import TRIM_NAME, TrimReport
from ..settings.hub import CardSettings, TermsSettings
from ..tensors.copying import combined_hash
from ..tensors.stored import tensor_hashes
from ..utils.errors import FlabError
from .frame import (
    BEGIN,
    END,
    MARK,
    RELATION,
    Rendered,
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
from .terms import settle_terms


TEMPLATE = Path(__file__).with_name("trimmed.md.jinja")


def is_trimmed(folder: Path) -> bool:
    """Whether `optimum-cli flab trim` wrote a folder."""
    return (folder / TRIM_NAME).is_file()


def check_trimmed(folder: Path) -> None:
    """Raises a [`FlabError`] if files of a trimmed model are missing, or were changed since."""
    report = TrimReport.load(folder)
    missing = [name for name in (*report.files, PLAN_NAME) if not (folder / name).is_file()]
    if missing:
        raise FlabError(f"the trimmed model in {str(folder)!r} lacks {', '.join(missing)}; trim it again")
    hashes = tensor_hashes([folder / name for name in report.files])
    tables_now = {name: hashes.pop(name, "") for name in report.tables}
    if tables_now != report.tables or combined_hash(hashes) != report.copied_sha256:
        raise FlabError(
            f"the weights in {str(folder)!r} are not those that {TRIM_NAME} is about: they were changed since; trim"
            " the model again"
        )


def render_trimmed(
    folder: Path,
    stated: TermsSettings,
    *,
    repo_id: str | None = None,
    earlier: Sequence[str] = (),
    ask_hub: bool = True,
) -> Rendered:
    """Renders the card of a trimmed model; see [`~hub.card.render_card`] for the arguments and errors."""
    report = TrimReport.load(folder)
    own = [card for card in earlier if is_generated(card)]
    base = Base(
        name=report.base_model,
        revision=report.base_revision,
        weights_sha256=report.copied_sha256,
        card=report.card or BaseCard(),
    )
    known = [metadata_of(card) for card in own if report.copied_sha256 in card]
    terms = settle_terms(base, stated, ChainMap(*known), ask_hub)
    is_gguf = all(name.endswith(".gguf") for name in report.files)
    fields = {
        "base_model": terms.base_model,
        "base_model_relation": RELATION if terms.base_model else None,
        "license": terms.license,
        "license_name": terms.license_name,
        "license_link": terms.license_link,
        "language": list(terms.language) or None,
        "library_name": None if is_gguf else "transformers",
        "tags": ["flab-pruner", "trimmed", *(["gguf"] if is_gguf else [])],
    }
    data = {name: value for name, value in fields.items() if value is not None}
    for card in own:
        data = with_additions(data, card)
    title = repo_id.split("/")[-1] if repo_id else f"{terms.name}, trimmed"
    mark, name = MARK.format("0" * 64), code([terms.name])
    text = render(
        TEMPLATE,
        {
            "card_data": Whole(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).strip()),
            "report": report,
            "title": cell(title),
            "base": f"[{terms.base_model}](https://huggingface.co/{terms.base_model})" if terms.base_model else name,
            "license": license_text(terms, sorted(one.name for one in folder.iterdir() if is_license_file(one.name))),
            "mark": Whole(mark),
            "begin": Whole(BEGIN),
            "own_text": Whole(next(filter(None, map(text_of_user, earlier)), "")),
            "end": Whole(END),
        },
    )
    return Rendered(text.replace(mark, mark.replace("0" * 64, checksum(text))), terms, terms.notes)


def write_trimmed_card(
    folder: Path, settings: CardSettings | None = None, ask_hub: bool = True, earlier: str | None = None
) -> tuple[str, ...]:
    """Writes the card of a trimmed model to its folder; see [`~hub.card.write_card`] for the arguments and errors."""
    settings = settings or CardSettings()
    cards = [card for card in (replaceable_card(folder, settings), earlier) if card is not None]
    card = render_trimmed(folder, settings, repo_id=settings.repo_id, earlier=cards, ask_hub=ask_hub)
    write_files(folder, {CARD_NAME: card.text.encode("utf-8", "replace")})
    return card.notes
