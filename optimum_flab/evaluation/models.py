"""The models that are evaluated: found and checked first, then loaded one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel, dense_from_memory
from ..checkpoints.stored_model import StoredModel, check_model
from ..records.results import EvaluatedModel
from ..running.casting import copy_in
from ..running.generation import config_hash
from ..texts.formats import chat_text
from ..utils.errors import ConfigurationError, FlabError
from ..vocabulary.infilling import EXAMPLE, InfillingFormat, infilling_format, missing_tokens
from ..vocabulary.usage import tokenizer_hash
from .catalog import LoadedTask
from .lm import INFILLING
from .tasks.infilling import Question, leaves_a_gap


Model = str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LoadedModel
Source = StoredModel | LoadedModel  # a model that is not loaded yet, or was in memory already


def source_of(model: Model, revision: str | None, trust_remote_code: bool, family: str | Path | None = None) -> Source:
    """Finds a model and reads all but its weights.

    Raises:
        [`FlabError`]: it cannot be found or is refused, or the tokenizer does not fit the embeddings.
    """
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, tuple):
        return dense_from_memory(*model, family)
    return check_model(model, revision=revision, trust_remote_code=trust_remote_code, family=family)


def load(source: Source, dtype: torch.dtype | None, device: torch.device) -> tuple[LoadedModel, EvaluatedModel]:
    """A model with its weights, and what the results say about it. One that was in memory stays as it is.

    Args:
        dtype (`torch.dtype`, *optional*): to compute in; by default that of the weights.
    """
    loaded = source.load(source.storage_dtype, "cpu") if isinstance(source, StoredModel) else source
    digest = dense_hash(loaded)  # of the checkpoint, whatever dtype is computed in
    if source is not loaded:
        if dtype in (None, loaded.storage_dtype):
            model = loaded.model.to(device)
        else:
            model = copy_in(loaded.model, device, dtype)  # a cast would round the buffers that stay in float32
            model.generation_config = loaded.model.generation_config
        loaded = replace(loaded, model=model)
    return loaded, EvaluatedModel(
        name=loaded.name,
        revision=loaded.revision,
        weights_sha256=digest,
        config_sha256=config_hash(loaded.model),
        tokenizer_sha256=tokenizer_hash(loaded.tokenizer),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=loaded.model.device.type,
        parameters=loaded.model.num_parameters(),
    )


def check_chat_template(source: Source, tasks: Sequence[LoadedTask]) -> None:
    """Raises a [`FlabError`] if a task needs a chat template that the model lacks, or that refuses a question."""
    for task in tasks:
        if not task.chat_template:
            continue
        plain = task.name.removesuffix("_instruct")
        instead = f"; use the task {plain!r}" if plain != task.name else ""
        if not source.tokenizer.chat_template:
            raise FlabError(
                f"task {task.name!r} needs a chat template, but the tokenizer of {source.name!r} has none{instead}, or"
                " an instruct model"
            )
        try:
            chat_text(source.tokenizer, [{"role": "user", "content": "question"}], add_generation_prompt=True)
        except FlabError as error:
            raise FlabError(f"task {task.name!r} shows {source.name!r} a question: {error}{instead}") from error


def ask_for_gaps(
    sources: Mapping[str, Source], tasks: Sequence[LoadedTask], template: str | None
) -> tuple[list[LoadedTask], InfillingFormat | None]:
    """Makes the infilling tasks ask in the format that the models were trained on, the same for all models.

    Args:
        sources (`Mapping[str, Source]`): the models by role; the format is that of the first.
        template (`str`, *optional*): the format, where the user names one.

    Returns:
        `tuple`: the tasks, and the format; `None` where no task has gaps.

    Raises:
        [`ConfigurationError`]: a format is named, and no task has gaps.
        [`FlabError`]: no format is known for the tokenizer, or a model lacks one of its tokens.
    """
    named = None if template is None else InfillingFormat.parse(template)
    asking = [task for task in tasks if any(map(leaves_a_gap, task.tasks.values()))]
    if not asking:
        if named is not None:
            raise ConfigurationError(
                f"fim_format: {template!r}, but none of the named tasks has gaps to fill; leave it out, or name a task"
                " that has, such as humaneval_infilling"
            )
        return list(tasks), None
    first = next(iter(sources.values()))
    fim_format = named or infilling_format(first.tokenizer)
    if fim_format is None:
        raise FlabError(
            f"task {asking[0].name!r}: it is not known how to ask {first.name!r} to fill a gap: its tokenizer lacks"
            f" the special tokens of every known format; set `fim_format` to the one that it was trained with, such"
            f" as {EXAMPLE!r}, or leave the task out"
        )
    for source in sources.values():
        if missing := missing_tokens(source.tokenizer, fim_format.marks):
            whence = "fim_format" if named else f"the format of {first.name!r}"
            raise FlabError(
                f"task {asking[0].name!r}: {missing[0]!r} (of {whence}: {fim_format.template!r}) is not a special"
                f" token of the tokenizer of {source.name!r}; set `fim_format` to a format whose tokens it has, or"
                " leave the task out"
            )
    for task in asking:
        for leaf in filter(leaves_a_gap, task.tasks.values()):
            leaf.config.doc_to_text = Question(fim_format.template)
            leaf.config.generation_kwargs = {**leaf.config.generation_kwargs, INFILLING: fim_format.template}
    asked_tasks = {
        task.name: replace(task, protocol=f"{task.protocol or 'infilling'}; asked as {fim_format.template}")
        for task in asking
    }
    return [asked_tasks.get(task.name, task) for task in tasks], fim_format
