"""A pruned model in memory, and the folder that it is written to."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .checkpoints.computation import choose_dtype
from .checkpoints.finding import ModelFiles
from .checkpoints.hashes import dense_hash, weights_hash
from .checkpoints.loading import LoadedModel, load_dense
from .checkpoints.saving import save_checkpoint
from .checkpoints.surgery import pruned_tensors
from .checkpoints.weights import lossless_tensors
from .export import Exported, export_gguf
from .export.file_cost import file_cost
from .families import save_family
from .families.positions import check_positions
from .pruning.plan_check import check_plan
from .pruning.result import PrunedModel
from .records.atomic import write_files
from .records.checkpoint import Checkpoint
from .records.folders import FolderKind, OutputFolder
from .records.ledger import Ledger
from .records.names import CARD_NAME, gguf_name, is_replaceable
from .records.plan import PLAN_NAME
from .records.report import REPORT_NAME, FileCost, Report, report_text
from .running.casting import copy_in
from .running.generation import completion
from .running.placement import runnable
from .settings.export import ExportSettings
from .settings.pruning import DataSettings
from .tensors.gguf_header import WEIGHTS_FIELD, read_header, type_name
from .tensors.lazy import StoredTensors
from .tensors.workspace import Workspace
from .utils.errors import ConfigurationError, FlabError
from .utils.hashing import file_sha256
from .utils.memory import give_back_memory
from .utils.places import cache_root
from .utils.progress import progress_bar, say
from .utils.units import parse_bytes


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


COMPLETION_TOKENS = 64  # new ones, at most
ONLY_UNTIL_WRITTEN = ("time-budget", "plan", "held-out")  # stages whose values are in the checkpoint itself


def is_part_of_checkpoint(path: Path) -> bool:
    """Whether a file or folder at the top of a pruned model's folder is part of the model, so that another model may
    replace it; a card that somebody wrote or changed is not."""
    from .hub.frame import is_generated

    if path.name != CARD_NAME:
        return is_replaceable(path)
    try:
        return is_generated(Checkpoint(path.parent).card or "")
    except FlabError:
        return False


WRITING, MEASURING = "GGUF files", "measuring GGUF files"  # stages
CHECKPOINT = FolderKind("a pruned model", PLAN_NAME, is_part_of_checkpoint)


def output_folder(
    folder: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> OutputFolder:
    """Reserves the folder of a checkpoint before any long work.

    ```python
    >>> with FlabOptimizer.output("out", inputs=["model"]) as output:
    ...     optimizer = FlabOptimizer.from_pretrained("model")
    ...     optimizer.prune(FlabPrunerConfig(target_ratio=0.35))
    ...     optimizer.save_to(output)
    ```

    The arguments and errors are those of [`~records.folders.OutputFolder`].
    """
    return OutputFolder(folder, CHECKPOINT, overwrite=overwrite, inputs=inputs)


def read_pruned(folder: str | Path, dense: LoadedModel) -> PrunedModel:
    """A checkpoint that was pruned from a dense model.

    Raises:
        [`FlabError`]: the folder holds no pruned checkpoint, or one that does not fit the dense model. Weights are not
            compared: [`~recovery.pipeline.recover`] does that.
    """
    checkpoint = Checkpoint(folder)
    plan = checkpoint.whole_plan
    check_plan(dense.model, dense.family, plan)
    loaded = load_dense(folder, device="cpu", dtype=plan.dtype)
    return PrunedModel(
        loaded.model, loaded.tokenizer, plan, checkpoint.report, checkpoint.config, folder=checkpoint.folder
    )


def check_as_written(loaded: LoadedModel) -> None:
    """Raises a [`FlabError`] if a pruned model in memory is not the one in its folder."""
    assert loaded.folder is not None  # it was read from there
    if dense_hash(loaded) != Checkpoint(loaded.folder).report.weights_sha256:
        raise FlabError(
            f"the weights in memory are not those that {loaded.folder} was written with; save them to a folder of"
            " their own"
        )


def as_loaded_model(pruned: PrunedModel, dense: LoadedModel) -> LoadedModel:
    """A copy of a pruned model on the device of its dense model and in its dtype, to be evaluated beside it."""
    model = copy_in(pruned.model, dense.model.device, dense.model.dtype)
    model.generation_config = pruned.model.generation_config
    return LoadedModel(
        model=model,
        tokenizer=pruned.tokenizer,
        family=dense.family,
        name=f"{dense.name} (pruned)",
        storage_dtype=pruned.model.dtype,
    )


def check_prompt(
    dense: LoadedModel,
    prompt: str,
    max_new_tokens: int = COMPLETION_TOKENS,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Refuses a prompt that cannot be completed.

    Args:
        dense ([`LoadedModel`]): a pruned model has as many positions.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): of the pruned model, which may make more tokens of it.
            Defaults to the dense one's.

    Raises:
        [`ConfigurationError`]: it is empty, or too long for the model.
    """
    if not prompt:
        raise ConfigurationError("prompt: there is nothing to continue; name some text")
    tokens = len((tokenizer or dense.tokenizer)(prompt)["input_ids"])
    check_positions(dense.model.config, dense.family, "prompt and completion", tokens + max_new_tokens)


def completions(dense: LoadedModel, pruned: PrunedModel, prompt: str, max_new_tokens: int) -> dict[str, str]:
    """Greedy completions of a prompt by both, under the keys `"dense"` and `"pruned"`."""
    for tokenizer in (dense.tokenizer, pruned.tokenizer):
        check_prompt(dense, prompt, max_new_tokens, tokenizer)
    if pruned.model.device.type == "meta":
        dense.check_in_memory()
    if dense.stored is not None:
        folder = cache_root("pruning") if pruned.work is None else pruned.work.root
        folder.mkdir(parents=True, exist_ok=True)
        dense = dense.with_weights(Workspace(folder))
    whole = runnable(dense.model, dense.family)
    sides = {"dense": (whole, dense.tokenizer), "pruned": (pruned.model, pruned.tokenizer)}
    return {name: completion(*side, prompt, max_new_tokens) for name, side in sides.items()}


def write_pruned(pruned: PrunedModel, dense: LoadedModel, output: OutputFolder) -> PrunedModel:
    """Writes the stock checkpoint, plan, report, configuration, card and licence files to a reserved folder.

    Args:
        dense ([`LoadedModel`]): what it was pruned from, with its weights in memory or in their files.

    Returns:
        [`PrunedModel`]: with its folder, and the hash of its weights in its report.
    """
    earlier = Checkpoint(output.folder).card
    with output.replacement() as partial:
        pruned = replace(pruned, folder=partial)
        pruned = pruned.with_report(weights_sha256=_write_weights(pruned, dense))
        pruned.plan.save(partial)
        save_family(dense.family, partial)
        if pruned.config is not None:
            pruned.config.save_pretrained(partial)
        for file in dense.license_files:
            shutil.copyfile(file, partial / file.name)
        for name, path in pruned.files.items():
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, partial / name)
        write_records(pruned.checkpoint, earlier)
    clear_saved_stages(pruned)
    return replace(pruned, folder=output.folder)


def write_gguf_files(
    pruned: PrunedModel, dense: LoadedModel, types: Sequence[str], ledger: Ledger
) -> Iterator[tuple[Exported, FileCost | None]]:
    """Writes a pruned model as GGUF files beside its weights, which were just written, and measures each on the
    held-out text of the pruning.

    Args:
        dense ([`LoadedModel`]): what it was pruned from. If that is a GGUF file and only its vocabulary was pruned,
            the file of its own type is that one with fewer rows: nothing is quantised again.
        types (`Sequence[str]`): of the files, see [`~settings.export.ExportSettings`]; that of the formats of the plan
            is written first, if it has these.
        ledger ([`~records.ledger.Ledger`]): gets the stages `"GGUF files"` and `"measuring GGUF files"`.

    Returns:
        `Iterator[tuple[Exported, FileCost | None]]`: each file, once it is written and measured; nothing is measured
            where there was no held-out text, as when a plan was applied.

    Raises:
        [`FlabError`]: see [`~export.export_gguf`].
    """
    wanted, mixed = dict.fromkeys(types), pruned.plan.types
    if mixed:
        wanted = {str(pruned.report.target_size): None, **wanted}
    data = DataSettings() if pruned.config is None else pruned.config.data
    model = _in_files(pruned, dense)
    workspace = Workspace(None if dense.stored is None else pruned.checkpoint.folder)
    with ledger.stage(MEASURING):
        reference = pruned.reference and pruned.reference()
    matrix = None
    for kind in wanted:
        path = pruned.checkpoint.folder / gguf_name(pruned.report.base_model.name, kind)
        with ledger.stage(WRITING):
            exported = None
            if dense.gguf is not None and _is_only_trimmed(pruned, dense.gguf, kind):
                exported = _trimmed_gguf(pruned, dense.gguf, path, kind)
            if exported is None:
                formats = mixed if kind == pruned.report.target_size else None
                settings = ExportSettings() if formats else ExportSettings(type=kind)
                exported = export_gguf(model, path, settings, data, matrix, formats)
            matrix = exported.matrix or matrix
        most = _most_bytes(pruned.report, kind)
        if most is not None and (size := sum(file.bytes for file in exported.files)) > most:
            say(
                f"note: {path.name} has {size:,} bytes, more than {pruned.report.target_size}: this quantiser stores"
                " some tensors in other formats than it is known to; name a size that is smaller by as much"
            )
        cost = None
        try:
            with ledger.stage(MEASURING):
                cost = None if reference is None else file_cost(exported, model, reference, workspace, pruned=True)
        except FlabError as error:  # the file is there, and others may follow
            say(f"note: what {path.name} costs was not measured: {error}")
        yield exported, cost


def _in_files(pruned: PrunedModel, dense: LoadedModel) -> LoadedModel:
    """A pruned model with its weights in the files that were just written."""
    folder = pruned.checkpoint.folder
    files = ModelFiles(str(folder), str(folder), folder)
    device = torch.device("cpu")
    dtype = choose_dtype("auto", pruned.model.dtype, device)
    stored = lossless_tensors(files, copy.deepcopy(pruned.model.config), dtype, None)
    if stored is None:  # transformers puts its tensors together in a way that cannot be done one by one
        return load_dense(folder, device="cpu", dtype="auto")
    return LoadedModel(
        model=stored.model.eval().requires_grad_(False),
        tokenizer=pruned.tokenizer,
        family=dense.family,
        name=files.name,
        storage_dtype=pruned.model.dtype,
        folder=folder,
        stored=stored,
        computed_on=device,
    )


def _is_only_trimmed(pruned: PrunedModel, source: Path, kind: str) -> bool:
    """Whether the pruned model is a GGUF file of this type but for the tokens that it lacks."""
    plan = pruned.plan
    header = read_header(source)
    layers = header.fields.get(f"{header.architecture}.block_count", 0)
    whole = plan.kept_tokens is not None and len(plan.kept_tokens) == plan.vocab_size
    with suppress(KeyError, ValueError):  # it does not say, or a newer one
        return whole and plan.keeps_body(layers) and type_name(header.fields) == kind
    return False


def _most_bytes(report: Report, kind: str) -> int | None:
    """What a file of a type may have at most, if the size that was asked for is about it."""
    return parse_bytes(report.target_size or "") if kind in (report.target_type, report.target_size) else None


def _trimmed_gguf(pruned: PrunedModel, source: Path, path: Path, kind: str) -> Exported | None:
    """Writes the pruned file with fewer rows; `None` where that is larger than the size that was asked for, which was
    found for a new file of this type: the pruned one may hold the embedding twice, or tensors in finer types."""
    from .export.gguf_file import WrittenFile, temporary_folder
    from .trim.gguf import GgufModel
    from .vocabulary.files import SAMPLES

    report, kept = pruned.report, pruned.plan.kept_tokens
    model = GgufModel(source, more={WEIGHTS_FIELD: str(report.weights_sha256)})
    assert kept is not None  # its vocabulary is what was pruned
    with temporary_folder(path) as folder:
        model.check_tokens(kept, folder, SAMPLES)
        written = model.write(kept, folder, path.stem).paths[0]
        most = _most_bytes(report, kind)
        if most is not None and written.stat().st_size > most:
            return None
        written.replace(path)
    note = f"{path.name} is the pruned file with fewer rows: nothing was quantised again"
    return Exported((WrittenFile(path, path.stat().st_size, file_sha256(path)),), (note,))


def write_records(checkpoint: Checkpoint, earlier: str | None = None) -> None:
    """Writes the report of a pruned model to its folder, with the card and the page, which say what is there.

    Args:
        checkpoint ([`Checkpoint`]): with its report in hand.
        earlier (`str`, *optional*): see [`~hub.card.write_card`].
    """
    from .hub.card import write_card

    write_files(checkpoint.folder, {REPORT_NAME: report_text(checkpoint.report).encode()})
    write_card(checkpoint, earlier=earlier, ask_hub=False)


def clear_saved_stages(pruned: PrunedModel) -> None:
    """Removes what was saved in case of an interruption, and is now in the checkpoint."""
    if pruned.work is not None:
        pruned.work.drop(ONLY_UNTIL_WRITTEN)


def in_place_of_dense(pruned: PrunedModel, dense: LoadedModel, dtype: torch.dtype) -> LoadedModel:
    """A pruned model in place of its dense one.

    Args:
        dtype (`torch.dtype`): of the pruned weights.

    Raises:
        [`FlabError`]: they are not yet in memory.
    """
    if pruned.model.device.type == "meta":
        raise FlabError(
            "the weights of the pruned model are not in memory yet (in_memory=False); save it, load what was saved,"
            " and export that"
        )
    return replace(dense, model=pruned.model, tokenizer=pruned.tokenizer, storage_dtype=dtype, stored=None)


def _write_weights(pruned: PrunedModel, dense: LoadedModel) -> str | None:
    """Writes weights, configuration and tokenizer to the folder, and returns the hash of the weights."""
    checkpoint = pruned.checkpoint
    if pruned.model.device.type != "meta":
        save_checkpoint(pruned.model, pruned.tokenizer, checkpoint.folder, dense.family)
        return pruned.report.weights_sha256
    stored = dense.stored
    assert stored is not None  # a model on the meta device has its weights in files
    give_back_memory()  # what reading the tokenizer took
    # a bar holds on to its current item: the name, not the tensor
    names = progress_bar("Pruning tensors", len(stored), "tensor", iterable=stored)
    tensors = ((name, stored[name]) for name in names)
    cut = pruned_tensors(tensors, dense.family, pruned.plan, pruned.model.state_dict())
    save_checkpoint(pruned.model, pruned.tokenizer, checkpoint.folder, dense.family, cut)
    return weights_hash(StoredTensors(checkpoint.weight_files))
