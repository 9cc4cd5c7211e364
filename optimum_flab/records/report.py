"""`flab_report.json`: what was removed and what it cost. Its form. Lightweight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from .held_out import HeldOut, KindCost
from .json_files import Number, Record, check_format, parse_record
from .ledger import CommandCost, StageCost
from .texts import PlainText, TextCounts


REPORT_NAME = "flab_report.json"
FORMAT = 2


class BaseCard(Record):
    """What the dense model's card stated when the model was pruned.

    Args:
        license (`str`, *optional*): identifier of its licence, as the Hub spells it.
        license_name, license_link (`str`, *optional*): of a licence that has no identifier (`other`).
        language (`tuple[str, ...]`): tags of languages.
        citation (`str`, *optional*): BibTeX that it asks to cite.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    citation: str | None = None


class Base(Record):
    """The dense model.

    Args:
        name (`str`): as the user named it: a Hub id or a path.
        revision (`str`, *optional*): its commit, if it is from the Hub.
        weights_sha256 (`str`): hash of its weights.
        card ([`BaseCard`], *optional*): of its folder.
    """

    name: str
    revision: str | None = None
    weights_sha256: str
    card: BaseCard | None = None


class Part(Record):
    """The size of a component.

    Args:
        parameters (`int`): tied weights count once.
        bytes (`int`): of the weights in their files.
    """

    parameters: int
    bytes: int


class Sizes(Record):
    """Sizes that pruning changes, each under its name in the settings; `None` where a model has none."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | None]

    @property
    def sizes(self) -> dict[str, int]:
        """Those that the model has, by name."""
        return {name: size for name, size in self.__pydantic_extra__.items() if size is not None}


class Side(Part, Sizes):
    """The dense or the pruned model.

    Args:
        dtype (`str`): of the weights in their files, such as `bfloat16`.
        components (`dict[str, Part]`): what `parameters` and `bytes` are the sums of.
    """

    dtype: str
    components: dict[str, Part]

    @property
    def body_parameters(self) -> int:
        """The parameters of all but the vocabulary; 0 where components were not counted."""
        return sum(part.parameters for name, part in self.components.items() if name != "vocabulary")


class TriedShape(Sizes):
    """A shape that meets the target, as it was measured on validation text.

    Args:
        validation_divergence (`float`): nats per token, over the vocabulary of the shape.
        validation_vocabulary_bits_per_byte (`float`, *optional*): what the dense model pays with the shape's tokens.
        validation_bits_per_byte (`float`): the divergence added; shapes are compared by it minus three quarters of
            the former, and plus what rounding costs.
        validation_rounding_bits_per_byte (`float`, *optional*): what rounding to the formats with which it meets a
            size is predicted to cost.
        chosen (`bool`): whether it is the one that was chosen.
    """

    validation_divergence: Number
    validation_vocabulary_bits_per_byte: Number | None = None
    validation_bits_per_byte: Number
    validation_rounding_bits_per_byte: Number | None = None
    chosen: bool


class RemovedLayer(Record):
    """A layer in the order of removal.

    Args:
        layer (`int`): index in the dense model.
        score (`float`): the criterion's; by `"divergence"` that of the model, in nats per token, once this layer
            and those before it are gone.
    """

    layer: int
    score: Number


class Search(Record):
    """What the search measured.

    Args:
        candidates (`tuple[TriedShape, ...]`): empty where sizes were pinned.
        removed_layers (`tuple[RemovedLayer, ...]`): in the order of their removal.
        natural_vocab_size (`int`): tokens that the corpus needs.
    """

    candidates: tuple[TriedShape, ...] = ()
    removed_layers: tuple[RemovedLayer, ...] = ()
    natural_vocab_size: int


class RecoveryData(Record):
    """What a pruned model was trained on.

    Args:
        examples (`int`): examples that were read.
        dropped (`dict[str, int]`): examples left out, by reason; if there are none, passages that only measure.
        kept (`int`): examples that are left.
        plain_text ([`PlainText`]): text besides them.
        answers (`dict[str, int]`): examples by the source of the answer that is learned.
        answers_rejected (`dict[str, int]`): answers of the dense model that are not learned, by reason.
        sequences, validation_sequences (`int`): rows that were trained on, and that were set aside.
        tokens, answer_tokens (`int`): tokens in `sequences`, and those whose prediction is learned.
    """

    examples: int
    dropped: dict[str, int]
    kept: int
    plain_text: PlainText
    answers: dict[str, int]
    answers_rejected: dict[str, int]
    sequences: int
    validation_sequences: int
    tokens: int
    answer_tokens: int


class CurvePoint(Record):
    """A logged loss: of the training, or on the sequences set aside.

    Args:
        step (`int`): steps done.
        training_loss, validation_loss (`float`, *optional*): nats; one of the two.
    """

    step: int
    training_loss: float | None = None
    validation_loss: float | None = None


class RecoveryTraining(Record):
    """How a training went.

    Args:
        steps, steps_done (`int`): optimizer steps, planned and done.
        batch_size, micro_batch_size (`int`): sequences per step over all processes, and per forward pass of one.
        accumulation (`int`): forward passes per step of one process.
        evaluate_every (`int`): steps between evaluations.
        processes (`int`): processes that shared it.
        dtype (`str`): it was computed in.
        best_step (`int`): the step whose weights were taken; 0: those before it.
        start_loss, best_loss (`float`): on the sequences set aside, in nats.
        curve (`tuple[CurvePoint, ...]`): losses by step.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    evaluate_every: int
    processes: int
    dtype: str
    steps_done: int
    best_step: int
    start_loss: Number
    best_loss: Number
    curve: tuple[CurvePoint, ...] = ()


class RecoveryEstimate(Record):
    """What a training was expected to take.

    Args:
        memory_bytes (`int`): of one process while it trains.
        disk_bytes (`int`): checkpoints, cached predictions and the result.
        seconds (`float`): of the training steps, evaluations included.
        answer_seconds (`float`): of the dense model's answers, if each is as long as it may be.
    """

    memory_bytes: int
    disk_bytes: int
    seconds: float
    answer_seconds: float = 0.0


class Recovery(Record):
    """A training after pruning.

    Args:
        pruned_weights_sha256 (`str`): hash of the weights before it.
        settings (`dict`): the settings, as requested.
        datasets (`tuple[str, ...]`): ids of the Hub datasets that were read.
        data ([`RecoveryData`]): what it was done with.
        held_out_before, held_out_after ([`HeldOut`]): on text not trained on, the same for both.
        pruning_held_out ([`HeldOut`], *optional*): what the pruning before it measured, on held-out text of its own.
        training ([`RecoveryTraining`]): how it went.
        estimate ([`RecoveryEstimate`]): what was expected.
        stages (`dict[str, StageCost]`): what each step cost.
        total ([`StageCost`], *optional*): of the whole command, see [`Report`].
        notes (`tuple[str, ...]`): what the user should know.
        command (`str`, *optional*): the command line, with names instead of paths.
    """

    pruned_weights_sha256: str
    settings: dict[str, Any]
    datasets: tuple[str, ...] = ()
    data: RecoveryData
    held_out_before: HeldOut
    held_out_after: HeldOut
    pruning_held_out: HeldOut | None = None
    training: RecoveryTraining
    estimate: RecoveryEstimate
    stages: dict[str, StageCost] = Field(default_factory=dict)
    total: StageCost | None = None
    notes: tuple[str, ...] = ()
    command: str | None = None


class ComparedCompletion(Record):
    """What both models write after a prompt, greedily.

    Args:
        prompt (`str`): the text to go on from.
        dense, pruned (`str`): the same text with what each model writes after it.
    """

    prompt: str
    dense: str
    pruned: str


class FileCost(Record):
    """A GGUF file that was written of the model, and what its weights cost, as they are once dequantised.

    Args:
        name (`str`): of the file; of the first part of a split one.
        type (`str`): its number format, such as `q4_k_m`; `mixture` where each matrix has its own.
        bytes (`int`): its size, of all parts together.
        sha256 (`str`): hex, of its content; of the first part.
        against (`str`): what was measured against: the `dense` model that was pruned, or its `source`, the checkpoint
            that it was made of, where the dense model was not at hand.
        cost ([`KindCost`]): on held-out text; the dense figures are those of what it was measured against.
        by_kind (`dict[str, KindCost]`): the same by kind of text; empty if texts were of no kind.
        formats (`dict[str, dict[str, int]]`): of a mixture, by kind of matrix, such as `ffn_down`, how many are stored
            in each format.
        bits_per_weight (`float`, *optional*): of its matrices.
        divergence_99, same_top (`float`, *optional*): see [`HeldOut`].
    """

    name: str
    type: str
    bytes: int
    sha256: str
    against: Literal["dense", "source"]
    cost: KindCost
    by_kind: dict[str, KindCost] = Field(default_factory=dict)
    formats: dict[str, dict[str, int]] = Field(default_factory=dict)
    bits_per_weight: Number | None = None
    divergence_99: Number | None = None
    same_top: Number | None = None


class Computation(Record):
    """What the pruning was computed in.

    Args:
        dtype (`str`): number format.
        device (`str`): `cpu`, `cuda`, ….
    """

    dtype: str
    device: str


class Report(Record):
    """`flab_report.json`.

    Args:
        format (`int`): of the file.
        base_model ([`Base`]): the dense model.
        weights_sha256 (`str`, *optional*): hash of the weights; `None` until they are written, if in files only.
        dense, pruned ([`Side`]): before and after.
        removed_ratio, target_ratio (`float`): share of all parameters; no target if sizes were pinned.
        target_size, target_type (`str`, *optional*): the size that was asked for, and the type of the GGUF file that
            it is about, if it is not that of the weights.
        removed_body_ratio (`float`): share of all but the vocabulary.
        removed_layer_indices (`tuple[int, ...]`): of the dense model, ascending.
        held_out ([`HeldOut`], *optional*): `None` if nothing was measured, as when a plan is applied.
        search ([`Search`], *optional*): `None` if a plan was applied.
        texts ([`TextCounts`], *optional*): `None` if a plan was applied.
        datasets (`tuple[str, ...]`): ids of the Hub datasets that were read to prune.
        recovery ([`Recovery`], *optional*): the training after pruning.
        completions (`tuple[ComparedCompletion, ...]`): those that were requested.
        files (`tuple[FileCost, ...]`): the GGUF files that were written of it and measured.
        notes (`tuple[str, ...]`): what the user should know.
        seed (`int`, *optional*): of the sampling of texts.
        computation ([`Computation`]): what it was computed in.
        stages (`dict[str, StageCost]`): what each step cost; of work that an earlier run saved, what it cost that run.
        total ([`StageCost`], *optional*): of the whole command, from its start to its last line, loading and writing
            included; by Python, of the call that pruned. What stages cost earlier runs is added.
        versions (`dict[str, str]`): of Python and packages; `None` for one that is not installed.
        command (`str`, *optional*): the command line, with names instead of paths.
    """

    format: int = FORMAT
    base_model: Base
    weights_sha256: str | None
    dense: Side
    pruned: Side
    removed_ratio: float
    removed_body_ratio: float
    target_ratio: float | None = None
    target_size: str | None = None
    target_type: str | None = None
    removed_layer_indices: tuple[int, ...]
    held_out: HeldOut | None = None
    search: Search | None = None
    texts: TextCounts | None = None
    datasets: tuple[str, ...] = ()
    recovery: Recovery | None = None
    completions: tuple[ComparedCompletion, ...] = ()
    files: tuple[FileCost, ...] = ()
    notes: tuple[str, ...] = ()
    seed: int | None = None
    computation: Computation
    stages: dict[str, StageCost] = Field(default_factory=dict)
    total: StageCost | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    command: str | None = None

    @property
    def commands(self) -> dict[str, CommandCost]:
        """What the commands cost that made the model, by what they did; none where it was not measured."""
        trained = self.recovery
        if trained is None or trained.command:
            sections = {"pruning": (self.stages, self.total)}
            sections |= {} if trained is None else {"training": (trained.stages, trained.total)}
        else:
            sections = {"pruning and training": ({**self.stages, **trained.stages}, self.total)}
        return {done: CommandCost(stages, total) for done, (stages, total) in sections.items() if total is not None}

    def with_file(self, file: FileCost) -> Report:
        """The same report with a file, in place of an earlier one of its name."""
        others = (one for one in self.files if one.name != file.name)
        return self.model_copy(update={"files": (*others, file)})

    @property
    def all_datasets(self) -> frozenset[str]:
        """The ids of the Hub datasets that were read to prune and to train."""
        return frozenset((*self.datasets, *(self.recovery.datasets if self.recovery is not None else ())))


def report_text(report: Report) -> str:
    """The content of `flab_report.json`."""
    return report.model_dump_json(indent=2) + "\n"


def parse_report(values: dict[str, Any], path: Path) -> Report:
    """The content of `flab_report.json`.

    Args:
        values (`dict`): of the file.
        path (`Path`): the file, for the message.

    Raises:
        [`FlabError`]: it is damaged or of a newer format; names the first faulty fields.
    """
    check_format(values, FORMAT, path)
    return parse_record(Report, values, path, "restore the file, or prune again")
