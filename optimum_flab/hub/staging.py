"""From a folder to what will be sent: everything is checked before the first byte is sent."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, FlabError
from ..records.json_files import read_json
from ..records.report import REPORT_NAME, Report, read_report
from .card import read_card, render_card
from .facts import (
    CONFIG_NAME,
    EVALUATION_NAME,
    FAMILY_NAME,
    PLAN_NAME,
    RESULT_NAMES,
    WEIGHTS,
    WEIGHTS_INDEX,
    is_result,
    read_evaluation,
    read_facts,
    weight_files,
)
from .leaderboards import BenchmarkTask, leaderboard_files
from .metadata import metadata_of
from .ownership import is_generated, metadata_of_user, statements, text_of_user
from .page import PAGE_NAME
from .paths import last_name, replaced_texts, without_paths
from .selection import grouped, select_files
from .terms import CARD_NAME, NO_ANSWERS, Answers, Fetch, check_licence


if TYPE_CHECKING:
    import torch


LARGEST_FILE = 50 * 10**9  # bytes, see "Storage limits" in the Hub's documentation
MOST_FILES = 25_000  # in one commit
RECORDS = (REPORT_NAME, PLAN_NAME, CONFIG_NAME)
BYTES_AT_ONCE = 1 << 22
ANY_SHARD = re.compile(r"model-.*-of-.*\.safetensors")
# weights that nothing here checks and that may be loaded in place of ours, and training state
NEVER_SENT = re.compile(
    r"(pytorch_model|tf_model|flax_model|adapter_model|adapter_config)\W.*|rng_state.*\.pth"
    r"|(optimizer|scheduler|scaler|training_args|trainer_state)\.(bin|pt|json|safetensors)"
)


@dataclass(frozen=True)
class Staged:
    """What will be sent.

    Args:
        files (`dict[str, Path | bytes]`): content by path in the repository, sorted by path.
        card (`str`): the text of the card, which is one of the files.
        notes (`tuple[str, ...]`): what the user should be told.
        replaces (`bool`): whether it replaces a checkpoint in the repository.
        left (`tuple[str, ...]`): what else is in the folder and is not sent.
        title (`str`): of the commit, where the user does not set one.
    """

    files: dict[str, Path | bytes]
    card: str
    notes: tuple[str, ...] = ()
    replaces: bool = True
    left: tuple[str, ...] = ()
    title: str = "Upload a pruned model"


def stage(
    folder: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    remote_card: str | None = None,
    answers: Answers = NO_ANSWERS,
    overwrite_card: bool = False,
    fetch: Fetch | None = None,
    benchmark_task: BenchmarkTask | None = None,
    largest_file: int = LARGEST_FILE,
) -> Staged:
    """Checks a pruned model and assembles what will be sent.

    The files of the model are sent, and what the user names. A card that this software wrote is rewritten for the
    repository; one that somebody wrote or changed is sent unchanged. In the records of the pruning, paths of this
    machine are reduced to file names.

    Args:
        folder (`Path`): of the pruned model.
        repo_id (`str`): where it goes, with its owner.
        revision (`str`, *optional*): the branch it goes to; `main` by default.
        include (`Sequence[str]`): further files, see [`~hub.selection.select_files`].
        remote_card (`str`, *optional*): the card in the repository.
        answers ([`Answers`]): base model and licence, where the files do not state them.
        overwrite_card (`bool`): whether a card there that this software did not write may be replaced.
        fetch (`Callable`, *optional*): reads the base model's card on the Hub.
        benchmark_task (`Callable`, *optional*): asks the Hub which datasets are benchmarks, see [`~hub.leaderboards`];
            without it no score is sent in the form that leaderboards collect.
        largest_file (`int`): maximum size of a file in bytes.

    Raises:
        [`ConfigurationError`]: the folder is not a complete pruned model, the licence is not known, or the card on the
            Hub may not be replaced.
        [`FlabError`]: the files do not belong together, or the Hub does not accept them.
    """
    check_complete(folder)
    facts = read_facts(folder)
    # results for other weights say nothing about these
    foreign = [path.name for path in folder.iterdir() if is_result(path.name) and path not in facts.results.files]
    gguf_files = [file.path.name for file in facts.gguf_files]
    selection = select_files(folder, include, gguf_files).without(foreign)
    files = selection.files
    check_limits({name: path.stat().st_size for name, path in files.items()}, largest_file)
    check_checkpoint_files(folder)
    staged: dict[str, Path | bytes] = dict(files)
    for name in files:
        if name in RECORDS:
            staged[name] = portable_record(files[name], facts.datasets)
        elif RESULT_NAMES[EVALUATION_NAME].fullmatch(name):
            staged[name] = portable_record(files[name], read_evaluation(files[name]).settings.datasets)
        elif is_result(name):
            staged[name] = portable_record(files[name])
    own, notes = read_card(folder / CARD_NAME), tuple[str, ...]()
    if own is None or is_generated(own):
        kept = merged_text(own, remote_card, overwrite_card)
        rendered = render_card(
            folder,
            repo_id,
            revision=revision,
            answers=answers,
            own_text=kept,
            remote_card=remote_card,
            fetch=fetch,
        )
        check_licence(rendered.terms)
        card, notes = rendered.content, rendered.notes
        staged |= rendered.plots
        if (page := rendered.page) is not None:
            staged[PAGE_NAME] = page.encode()
    else:
        card = own
        if not metadata_of(own).get("license"):
            raise ConfigurationError(
                f"{str(folder / CARD_NAME)!r}, which somebody wrote or changed, states no license in its metadata; add"
                " the base model's there, or have the card rewritten with `optimum-cli flab card --overwrite-card`"
            )
        if any(value is not None for value in vars(answers).values()):
            raise ConfigurationError(
                f"{str(folder / CARD_NAME)!r}, which somebody wrote or changed, is sent unchanged, so `base_model` and"
                " `license` would have no effect; write them into it"
            )
        notes = (f"{CARD_NAME} was not written by optimum-flab, or was changed: it is sent unchanged",)
        if remote_card is not None and not overwrite_card:
            check_nothing_lost(remote_card, card, repo_id)
    staged[CARD_NAME] = card.encode()
    if benchmark_task is not None:
        staged |= leaderboard_files(facts, repo_id, revision, benchmark_task)
    if remote_card is not None and not overwrite_card:
        check_replaceable(remote_card, card, repo_id)
    if shown := [name for name in selection.left if f"]({name})" in card]:
        notes = (*notes, f"the card shows {grouped(shown)}, not sent; `include` sends it")
    if selection.secret:
        notes = (*notes, f"{grouped(selection.secret)} look like secrets, and are sent only if each is named in full")
    title = commit_title(read_report(folder))
    return Staged(dict(sorted(staged.items())), card, tuple(notes), left=selection.left, title=title)


def commit_title(report: Report) -> str:
    """What a push contains, on one line."""
    what = last_name(report.base_model.name) or "a model"
    trained = " and trained" * (report.recovery is not None)
    body = report.removed_body_ratio
    share = "" if body is None else f" ({body:.1%} of the body)"
    return f"Upload {what}, pruned by {report.removed_ratio:.1%}{share}{trained}"


# --- the folder ----------------------------------------------------------------------------------------------------


def check_complete(folder: str | os.PathLike[str]) -> None:
    """Checks that a folder holds every file of a pruned model, and no weights besides those that are checked.

    Raises:
        [`ConfigurationError`]: names every file that is missing, or that must not be there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigurationError(f"folder {str(folder)!r} does not exist; name what `optimum-cli flab prune` wrote")
    needed = [folder / name for name in ("config.json", "tokenizer.json", PLAN_NAME, REPORT_NAME)]
    missing = [path.name for path in [*needed, *weight_files(folder)] if not path.is_file()]
    if missing:
        raise ConfigurationError(
            f"folder {str(folder)!r} is not a complete pruned model, since it lacks {', '.join(missing)}; "
            "name what `optimum-cli flab prune` wrote"
        )
    names, read = {path.name for path in folder.iterdir()}, {path.name for path in weight_files(folder)}
    # a loader that finds both reads the single file, and not what the index names
    read -= {WEIGHTS} if WEIGHTS_INDEX in names else set()
    if stray := sorted(
        name
        for name in names
        if ((name == WEIGHTS or ANY_SHARD.fullmatch(name)) and name not in read) or NEVER_SENT.fullmatch(name)
    ):
        raise ConfigurationError(
            f"folder {str(folder)!r} also holds {', '.join(stray)}, which is not part of the pruned model and might be"
            " loaded in its place; move it away"
        )


def check_limits(sizes: Mapping[str, int], largest_file: int = LARGEST_FILE, most_files: int = MOST_FILES) -> None:
    """Raises a [`FlabError`] if the Hub would refuse files because of their size or number.

    Args:
        sizes (`Mapping[str, int]`): bytes by path.
    """
    if len(sizes) > most_files:
        raise FlabError(f"{len(sizes):,} files are more than the {most_files:,} allowed in one commit; move some away")
    if large := [f"{name} ({size / 1e9:,.1f} GB)" for name, size in sizes.items() if size > largest_file]:
        raise FlabError(
            f"{', '.join(large)}: the Hub accepts files of at most {largest_file / 1e9:,.0f} GB; save the weights in"
            " more shards (`save_pretrained(..., max_shard_size='5GB')`)"
        )


def portable_record(path: Path, datasets: Collection[str] = ()) -> Path | bytes:
    """A JSON file with the paths of this machine in it reduced to names; the file itself where there are none.

    Args:
        datasets (`Collection[str]`): Hub datasets that were read: as sources of text, they are kept.

    Raises:
        [`FlabError`]: it is not JSON.
    """
    content = read_json(path)
    portable = without_paths(content, datasets)
    if portable == content:
        return path
    text = path.read_text(encoding="utf-8")  # its lines are kept, so that plans can be compared
    for local, name in replaced_texts(content, portable).items():
        for ascii in (True, False):  # plans are written in ASCII, reports are not
            text = text.replace(json.dumps(local, ensure_ascii=ascii), json.dumps(name, ensure_ascii=ascii))
    if json.loads(text) != portable:  # the same text also occurs elsewhere, where it is not a path
        text = json.dumps(portable, indent=2, ensure_ascii=False) + "\n"
    return text.encode()


def check_checkpoint_files(folder: Path) -> None:
    """Checks that weights, configuration, tokenizer, plan and report belong together.

    Raises:
        [`FlabError`]: lists what does not fit.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from ..checkpoints.hashes import weights_hash
    from ..checkpoints.tokenizer import check_vocabulary
    from ..families import family_for
    from ..records.plan import PruningPlan
    from ..vocabulary import config_token_ids

    report, plan = read_report(folder), PruningPlan.load(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        generation = (
            GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
        )
    except Exception as error:  # damaged files fail in many ways
        raise FlabError(f"{str(folder)!r} does not load ({error}); prune again") from error
    check_vocabulary(tokenizer, config, str(folder))
    described = folder / FAMILY_NAME
    family = family_for(config, described if described.is_file() else None)
    weights = read_weights(folder)
    faults = shape_faults(config, weights)
    for dimension, name in family.sizes.items():
        said = plan.sizes.get(dimension)
        if said is not None and (stated := getattr(config, name)) != said:
            faults.append(f"config.json says {name} {stated:,}, the plan {said:,}")
    if beyond := [token for token in config_token_ids(config, generation) if token >= config.vocab_size]:
        faults.append(f"token ids {beyond} in the configuration are beyond the {config.vocab_size} rows of weights")
    if plan.base_hash != report.base_model.weights_sha256:
        faults.append("plan and report belong to different base models")
    if not faults:  # a hash says nothing where the shapes differ
        found, recorded = weights_hash(weights), report.weights_sha256
        if found != recorded:
            faults.append(
                f"the weights have SHA-256 {found[:12]}…, but {REPORT_NAME} is of {str(recorded)[:12]}…: they were"
                " changed after they were measured"
            )
    if faults:
        raise FlabError(f"the files in {str(folder)!r} do not belong together: {'; '.join(faults)}; prune again")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the weight files, mapped from disk.

    Raises:
        [`FlabError`]: a file is damaged, or the index names tensors other than those in the files.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise FlabError(f"the weights in {str(path)!r} cannot be read ({error}); prune again") from error
    index = folder / WEIGHTS_INDEX
    if index.exists() and set(read_json(index)["weight_map"]) != set(weights):
        raise FlabError(f"{str(index)!r} names tensors other than those in its files; prune again")
    return weights


def shape_faults(config: Any, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps weights from being loaded strictly into the stock class of a configuration; empty if nothing does."""
    import torch
    from transformers import AutoModelForCausalLM

    from ..tensors.lazy import written_parts

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    keys = set(getattr(model, "all_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    expected, tied = dict[str, tuple[int, ...]](), set[str]()
    for name, tensor in model.state_dict().items():
        parts = written_parts(model, name, tensor)
        expected |= {part: tuple(outline.shape) for part, outline in parts.items()}
        tied |= parts.keys() if name in keys else set()
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [
        f"{name} has shape {found[name]}, config.json asks for {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if missing := sorted(expected.keys() - found.keys() - tied):
        faults.append(f"tensors are missing: {', '.join(missing[:3])}{', …' * (len(missing) > 3)}")
    if extra := sorted(found.keys() - expected.keys()):
        faults.append(f"tensors that the class does not have: {', '.join(extra[:3])}{', …' * (len(extra) > 3)}")
    return faults[:5]


# --- the card ------------------------------------------------------------------------------------------------------


def merged_text(own: str | None, remote: str | None, overwrite: bool) -> str:
    """The user's text for a card: that of the folder's card, or otherwise that of the card on the Hub.

    Raises:
        [`ConfigurationError`]: both hold different texts, or there is no telling where the text ends.
    """
    here = text_of_user(own) if own is not None else ""
    there = text_of_user(remote) if remote is not None else ""
    if here and there and here != there and not overwrite:
        raise ConfigurationError(
            f"between the marked lines the card on the Hub differs from {CARD_NAME} in the folder; copy what you need"
            " from there, and let yours win with `overwrite_card`"
        )
    return here or there


def check_replaceable(remote: str, card: str, repo_id: str) -> None:
    """Raises a [`ConfigurationError`] if the card on the Hub was written by somebody else."""
    if not is_generated(remote) and remote.replace("\r\n", "\n") != card.replace("\r\n", "\n"):
        raise ConfigurationError(
            f"{repo_id} has a {CARD_NAME} that was not written by optimum-flab, or was changed outside its marked"
            " lines; copy it into the folder to keep it, or replace it with `overwrite_card`"
        )


def check_nothing_lost(remote: str, card: str, repo_id: str) -> None:
    """Raises a [`ConfigurationError`] if somebody added something to a card of ours on the Hub that the user's own
    card, which is sent unchanged, lacks."""
    said = statements(metadata_of(card))
    added = [field for field, item in statements(metadata_of_user(remote)) if (field, item) not in said]
    added += ["the text between the marked lines"] if text_of_user(remote) not in card else []
    if added:
        raise ConfigurationError(
            f"the card of {repo_id} holds what {CARD_NAME} in the folder lacks ({', '.join(dict.fromkeys(added))});"
            " copy it there, or let yours win with `overwrite_card`"
        )


# --- hashes --------------------------------------------------------------------------------------------------------


def size_of(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def sha256_of(content: Path | bytes) -> str:
    """Hex SHA-256, which identifies large files on the Hub."""
    return _digest(content, hashlib.sha256())


def blob_id(content: Path | bytes) -> str:
    """The id of the git object, which identifies other files."""
    return _digest(content, hashlib.sha1(f"blob {size_of(content)}\0".encode()))


def _digest(content: Path | bytes, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as file:
        while block := file.read(BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
