"""A LoRA adapter on its own: which files of it are sent, and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, FlabError
from ..records.json_files import read_json
from ..records.report import REPORT_NAME, Recovery, read_report
from ..settings.recovery import ADAPTER_FOLDER
from .card import TAGS, licence, read_card
from .metadata import Whole, rendered, written_metadata
from .ownership import BEGIN, END, merged_metadata, metadata_of_user, signed, text_of_user, unsigned_mark
from .selection import check_inside
from .staging import Staged, check_limits, check_replaceable
from .terms import (
    CARD_NAME,
    LICENSE_FIELDS,
    NO_ANSWERS,
    Answers,
    Fetch,
    Terms,
    check_licence,
    is_repository,
    remembered,
    settle_terms,
)


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEMPLATE = Path(__file__).with_name("adapter.md.jinja")


def check_adapter(folder: Path, pruned: str) -> Path:
    """The folder of the adapter inside the folder of a recovered model.

    Args:
        pruned (`str`): the repository of the model that the adapter belongs to.

    Raises:
        [`ConfigurationError`]: there is none, or the name of the repository is not valid.
    """
    if not is_repository(pruned):
        raise ConfigurationError(
            f"adapter_of: {pruned!r} is not the id of a model on the Hub; name the pruned model, pushed before its"
            " recovery, as owner/name"
        )
    adapter = folder / ADAPTER_FOLDER
    if not adapter.exists() and (folder / REPORT_NAME).is_file():
        recovery = read_report(folder).recovery
        if recovery is not None and recovery.settings.get("keep_adapter") and recovery.training.best_step == 0:
            raise ConfigurationError(
                f"folder {str(folder)!r} holds no adapter: no checkpoint of that training was better than the model"
                " before it"
            )
    missing = [path.name for path in (adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS) if not path.is_file()]
    missing += [] if (folder / REPORT_NAME).is_file() else [REPORT_NAME]
    if missing:
        raise ConfigurationError(
            f"folder {str(folder)!r} holds no adapter, since it lacks {', '.join(missing)}; recover with"
            " `recovery.keep_adapter` and name what `optimum-cli flab recover` wrote"
        )
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        check_inside(adapter / name, folder, f"{ADAPTER_FOLDER}/{name}")
    return adapter


def stage_adapter(
    folder: Path,
    repo_id: str,
    pruned: str,
    *,
    remote_card: str | None = None,
    answers: Answers = NO_ANSWERS,
    overwrite_card: bool = False,
    fetch: Fetch | None = None,
) -> Staged:
    """Checks an adapter and assembles what will be sent.

    Args:
        folder (`Path`): the folder of the recovered model that it was kept with.
        repo_id (`str`): where it goes, with its owner.
        pruned (`str`): the repository of the pruned model, as it was before its recovery.

    Raises:
        [`ConfigurationError`]: there is no adapter, the licence is not known, or the card on the Hub may not be
            replaced.
        [`FlabError`]: the files are damaged.
    """
    if repo_id == pruned:
        raise ConfigurationError(
            f"{repo_id} is named both for the adapter and for the model that it belongs to; give the adapter its own"
            " repository"
        )
    adapter = check_adapter(folder, pruned)
    config, report = read_json(adapter / ADAPTER_CONFIG), read_report(folder)
    check_matrices(adapter / ADAPTER_WEIGHTS)
    recovery = report.recovery
    if recovery is None:
        raise FlabError(f"{str(folder / REPORT_NAME)!r} says nothing about a recovery; recover again")
    weights = recovery.pruned_weights_sha256
    previous = remembered(read_card(folder / CARD_NAME), remote_card, weights, (*LICENSE_FIELDS, "language"))
    terms = settle_terms(report.base_model, previous, answers, fetch)
    check_licence(terms)
    ours = adapter_card_data(pruned, terms).to_dict()
    data, replaced = merged_metadata(ours, metadata_of_user(remote_card))
    content = rendered(
        TEMPLATE.read_text(encoding="utf-8"),
        written_metadata(data),
        {
            "title": repo_id.split("/")[-1],
            "repo_id": repo_id,
            "pruned": pruned,
            "rank": config.get("r"),
            "weights": weights,
            "measured": measured_rows(recovery),
            "positions": recovery.held_out_after.positions,
            "licence": licence(terms, ()),
            "own_text": Whole(text_of_user(remote_card) if remote_card is not None else ""),
            "begin": Whole(BEGIN),
            "end": Whole(END),
            "mark": Whole(unsigned_mark(ours)),
        },
    )
    text = signed(content)
    if remote_card is not None and not overwrite_card:
        check_replaceable(remote_card, text, repo_id)
    files: dict[str, Path | bytes] = {
        CARD_NAME: text.encode(),
        ADAPTER_CONFIG: (json.dumps(portable_config(config, pruned), indent=2) + "\n").encode(),
        ADAPTER_WEIGHTS: adapter / ADAPTER_WEIGHTS,
    }
    check_limits({ADAPTER_WEIGHTS: (adapter / ADAPTER_WEIGHTS).stat().st_size})
    notes = (*terms.notes, *replaced)
    return Staged(files, text, notes, replaces=False, title=f"Upload a LoRA adapter for {pruned}")


def portable_config(config: Mapping[str, Any], pruned: str) -> dict[str, Any]:
    """The configuration of an adapter for the model in a repository; lists that peft makes from sets are sorted."""
    listed = {
        name: sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value
        for name, value in config.items()
    }
    return {**listed, "base_model_name_or_path": pruned}


def check_matrices(path: Path) -> None:
    """Raises a [`FlabError`] if a file of LoRA matrices is damaged or holds none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise FlabError(f"the adapter in {str(path)!r} cannot be read ({error}); recover again") from error
    if not any("lora_" in name for name in names):
        raise FlabError(f"{str(path)!r} holds no LoRA matrices; recover again")


def adapter_card_data(pruned: str, terms: Terms) -> ModelCardData:
    """The metadata."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=pruned,
        base_model_relation="adapter",
        license=terms.license,
        license_name=terms.license_name,
        license_link=terms.license_link,
        language=list(terms.language) or None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=[*TAGS, "lora"],
    )


def measured_rows(recovery: Recovery) -> list[list[str]]:
    """The losses of the pruned model on held-out text, without and with the adapter."""
    before, after = recovery.held_out_before, recovery.held_out_after
    divergence = "divergence from the dense model (nats per token)"
    return [
        [divergence, f"{before.divergence:.4f}", f"{after.divergence:.4f}"],
        ["bits per byte", f"{before.pruned_bits_per_byte:.4f}", f"{after.pruned_bits_per_byte:.4f}"],
    ]
