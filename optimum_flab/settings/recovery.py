"""The settings of a recovery, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from .section import Flag, Packages, Section, Seed, Sources, refuse_shared


LIBRARY_SOURCE = "python-packages"
PROBLEM_SOURCE = "packaged-problems"
LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}  # if the user sets none; LoRA matrices start at zero


class RecoveryConfig(Section):
    """What a pruned model is trained on, and how; the `recovery` section of a settings file.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value at once.

    Example:

    ```python
    >>> from optimum_flab import RecoveryConfig

    >>> RecoveryConfig(data="problems.jsonl", rank=16).rank
    16
    ```
    """

    data: Sources = []
    """sources of instruction data: files, folders or Hub datasets, columns mapped by name in brackets, such as
    'file.jsonl[prompt=question,answer=code,test=tests]'"""
    text: Sources = []
    """sources of plain text for distillation, each with an equal share of the tokens; default: python-packages and
    packaged-problems, also as conversations and with gaps, if distillation reads more than answers"""
    text_tokens: PositiveInt = 65536
    """maximum number of tokens of plain text, sampled with the seed"""
    text_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of all tokens that is plain text if none is named, all without instruction data; 0: none"""
    continuation_tokens: NonNegativeInt = 0
    """tokens that the dense model generates after the first lines of files of the plain text, to be distilled too;
    each costs about one of its forward passes"""
    continuation_temperature: Annotated[NonNegativeFloat, Flag(metavar="T")] = 1.0
    """sampling temperature of continuations; 0: the likeliest tokens"""
    exclude: Sources = []
    """sources whose text must not be trained on, besides HumanEval (if it is installed)"""
    held_out: Sources = []
    """sources of text used only for measuring; default: those of the pruning, or a part of the data set aside"""
    held_out_tokens: PositiveInt = 8192
    """maximum number of tokens to measure on"""
    most_examples: PositiveInt | None = None
    """maximum number of examples, sampled with the seed; default: all"""
    answers: Literal["dense", "reference"] = "dense"
    """what is learned: the dense model's own answers where they pass a check, or only the references"""
    dense_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of the problems without tests that the dense model answers"""
    allow_packages: Packages = []
    """packages installed here that the dense model's programs may import, by import name, together with their own
    dependencies; default: only the standard library"""
    max_new_tokens: PositiveInt = 256
    """maximum number of tokens of an answer or a continuation of the dense model"""
    generation_batch_size: PositiveInt = 16
    """prompts per batch of the dense model's answers"""
    template: Literal["auto", "chat", "plain"] = "auto"
    """how instructions are formatted; auto: with the tokenizer's chat template if it has one"""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """tokens per packed training sequence"""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """share of the sequences set aside for early stopping and the best checkpoint"""
    closed_form: bool = True
    """refit output projections in closed form before training"""
    closed_form_tokens: PositiveInt = 16384
    """maximum number of tokens that the closed-form step reads"""
    loss: Literal["distillation", "cross-entropy", "both"] = "distillation"
    """what is minimised: the divergence from the dense model, the cost of the answers, or a mix"""
    cross_entropy_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """weight of the cross-entropy where loss is both"""
    distill_on: Literal["all", "answer"] = "all"
    """tokens that are distilled"""
    teacher: Annotated[Literal["cached", "resident"], Flag("--teacher-mode")] = "cached"
    """dense predictions: the likeliest tokens saved on disk, or all computed as needed"""
    top_k: Annotated[PositiveInt, Flag(metavar="K")] = 64
    """likeliest tokens per position that a cached teacher saves"""
    method: Literal["lora", "full"] = "lora"
    """what is trained: LoRA matrices, merged afterwards, or all weights, kept in float32, which takes several times
    the memory and disk space"""
    rank: Annotated[PositiveInt, Flag(metavar="R")] = 32
    """rank of the LoRA matrices"""
    alpha: Annotated[PositiveFloat | None, Flag(metavar="A")] = None
    """scale of LoRA times its rank; default: the rank"""
    dropout: Annotated[float, Field(ge=0, lt=1), Flag(metavar="P")] = 0.0
    """dropout before the LoRA matrices"""
    targets: Annotated[Sources, Flag("--target", "MODULE")] = []
    """modules that get LoRA; default: all linear layers but the head"""
    train_embeddings: bool = False
    """train the embeddings and the output head too"""
    learning_rate: PositiveFloat | None = None
    """largest learning rate; default: 2e-4 for lora, 2e-5 for full"""
    final_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of the largest learning rate that is left at the end of cosine decay"""
    weight_decay: NonNegativeFloat = 0.0
    """weight decay of AdamW"""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """share of the steps with rising learning rate (warm-up)"""
    epochs: Annotated[PositiveFloat, Flag(metavar="N")] = 3.0
    """passes over the training sequences"""
    max_steps: PositiveInt | None = None
    """number of steps, which overrides the epochs; default: by the epochs"""
    batch_size: PositiveInt = 8
    """sequences per step, over all processes"""
    micro_batch_size: PositiveInt | None = None
    """sequences per forward pass of a process; default: about 512 tokens"""
    evaluations: PositiveInt = 8
    """number of evaluations, each with a checkpoint, spread over the steps"""
    patience: PositiveInt = 3
    """evaluations without improvement after which training stops"""
    gradient_checkpointing: bool = False
    """compute activations twice to save memory"""
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Flag("--training-dtype")] = "auto"
    """number format of the training; auto: bfloat16 if the device supports it natively, else float32"""
    keep_adapter: bool = False
    """keep the LoRA adapter in the output, beside the merged weights"""
    seed: Seed = 0
    """seed of every random choice"""

    @property
    def reads_plain_text(self) -> bool:
        """Whether the loss can learn from text without answers."""
        return self.loss != "cross-entropy" and self.distill_on == "all"

    @property
    def text_sources(self) -> list[str]:
        """The sources of plain text: those that are named, else the packaged ones unless they are switched off."""
        packaged = self.reads_plain_text and (self.text_share > 0 or self.continuation_tokens > 0)
        return self.text or [LIBRARY_SOURCE, PROBLEM_SOURCE] * packaged

    @property
    def trains(self) -> bool:
        """Whether the settings request a training, so that `flab prune` continues with one."""
        return bool(self.data or self.text or self.continuation_tokens)

    @property
    def largest_rate(self) -> float:
        """The learning rate that was requested, or that of the method."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    @property
    def sources(self) -> list[str]:
        """Every source that is read."""
        return [*self.data, *self.text_sources, *self.exclude, *self.held_out]

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> RecoveryConfig:
        lora_only = [name for name in ("keep_adapter", "alpha", "dropout", "targets") if getattr(self, name)]
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}; use a divisor"
            )
        if self.method == "full" and lora_only:
            raise ValueError(f"{lora_only[0]} applies to LoRA, but method is 'full'; leave one of them out")
        if self.keep_adapter and self.closed_form:
            raise ValueError(
                "keep_adapter: an adapter belongs to the unchanged pruned weights, but closed_form refits them first;"
                " switch `recovery.closed_form` off"
            )
        if (self.text or self.continuation_tokens or not self.data) and not self.reads_plain_text:
            raise ValueError(
                "plain text has no answers, so loss 'cross-entropy' and distill_on 'answer' learn nothing from it;"
                " name instruction data in `recovery.data`, and neither `recovery.text` nor continuations"
            )
        if not self.data and not self.text_sources:
            raise ValueError("text_share is 0, so there is nothing to train on; name sources in `recovery.data`")
        refuse_shared(self.held_out, [*self.data, *self.text_sources])
        return self
