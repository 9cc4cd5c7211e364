"""The settings of a recovery, as a validated section. Lightweight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from .section import Flag, Packages, Section, Seed, Sources, TextTokens, refuse_shared


LIBRARY_SOURCE = "python-packages"
PROBLEM_SOURCE = "packaged-problems"
# The composition of plain text: kind -> its default share of the tokens.
TEXT_KINDS = {"answers": 0.5, "problems": 0.15, "library": 0.2, "chat": 0.0, "infilling": 0.15}
LEARNING_RATES = {"lora": 2e-4, "full": 5e-6}  # if the user sets none; LoRA matrices start at zero
FULL_RATE_STEPS = 100  # of a longer training the rate falls with the cube root of the steps
# what a method takes where the user sets none
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "full": {"text_tokens": 163_840, "epochs": 1.0},
    "lora": {"text_tokens": 65_536, "epochs": 3.0, "rank": 32},
}
# optimizers by their names in transformers -> the bytes that each keeps for a trained weight
OPTIMIZERS = {"adamw_torch": 8, "adamw_8bit": 2, "adafactor": 0, "sgd": 0}
SHARDED_BY = "adamw_torch"  # alone, as no other was tried
LORA_ONLY = ("rank", "alpha", "dropout", "targets", "keep_adapter")

TextKind = Literal[(*TEXT_KINDS,)]  # type: ignore[valid-type]


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
    """sources of plain text for distillation, each with an equal share of the tokens; default: the kinds of the mix,
    from python-packages, packaged-problems and the dense model, if distillation reads more than answers"""
    mix: Annotated[dict[TextKind, NonNegativeFloat], Flag(metavar="KIND=SHARE")] = {}
    """share of the plain text of a kind if no source is named: answers (the dense model's own to packaged problems),
    problems, library (installed Python source), chat, infilling (gaps to fill in the middle); kinds that are not named
    get none; may be given several times (default: answers=0.5, problems=0.15, library=0.2, infilling=0.15)"""
    text_tokens: TextTokens | None = None
    """maximum number of tokens of plain text, sampled with the seed; default: 163840 for full, 65536 for lora"""
    text_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of all tokens that is plain text if none is named, all without instruction data; 0: none"""
    exclude: Sources = []
    """sources whose text must not be trained on, besides HumanEval (if it is installed)"""
    held_out: Sources = []
    """sources of text used only for measuring; default: those of the pruning, or a part of the data set aside"""
    held_out_tokens: TextTokens = 8192
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
    """maximum number of tokens of an answer of the dense model"""
    generation_batch_size: PositiveInt = 64
    """prompts per batch of the dense model's answers, fewer where memory ends"""
    template: Literal["auto", "chat", "plain"] = "auto"
    """how instructions are formatted; auto: with the tokenizer's chat template if it has one"""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """tokens per packed training sequence"""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """share of the sequences set aside to choose the best checkpoint"""
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
    method: Literal["auto", "full", "lora"] = "auto"
    """what is trained: all weights, kept in float32, which takes several times the memory and disk space, or LoRA
    matrices, merged afterwards; auto: all weights where there is room for it and no option of LoRA is set"""
    rank: Annotated[PositiveInt | None, Flag(metavar="R")] = None
    """rank of the LoRA matrices; default: 32"""
    alpha: Annotated[PositiveFloat | None, Flag(metavar="A")] = None
    """scale of LoRA times its rank; default: the rank"""
    dropout: Annotated[float, Field(ge=0, lt=1), Flag(metavar="P")] = 0.0
    """dropout before the LoRA matrices"""
    targets: Annotated[Sources, Flag("--target", "MODULE")] = []
    """modules that get LoRA; default: all linear layers but the head"""
    train_embeddings: bool = False
    """train the embeddings and the output head too"""
    learning_rate: PositiveFloat | None = None
    """largest learning rate; default: 5e-6 for full, 2e-4 for lora, less where there are more than 100 steps, by the
    cube root of their number"""
    final_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of the largest learning rate that is left at the end of cosine decay"""
    weight_decay: NonNegativeFloat = 0.0
    """weight decay of AdamW"""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """share of the steps with rising learning rate (warm-up)"""
    epochs: Annotated[PositiveFloat | None, Flag(metavar="N")] = None
    """passes over the training sequences; default: 1 for full, 3 for lora"""
    max_steps: PositiveInt | None = None
    """number of steps, which overrides the epochs; default: by the epochs"""
    batch_size: PositiveInt = 8
    """sequences per step, over all processes"""
    micro_batch_size: PositiveInt | None = None
    """sequences per forward pass of a process, fewer where memory ends; default: about 512 tokens, up to 2048 (on CUDA
    up to all of a step) where that is faster and memory allows it"""
    optim: Literal[(*OPTIMIZERS,)] = "adamw_torch"  # type: ignore[valid-type]
    """optimizer, by its name in transformers; adafactor and sgd keep no moments, which saves memory, and adamw_8bit
    keeps them in 8 bits, by bitsandbytes; the default learning rates are those of AdamW"""
    report_to: Annotated[Sources, Flag(metavar="NAME")] = []
    """where transformers' Trainer reports losses while it trains, such as tensorboard (files in ./runs, unless
    TENSORBOARD_LOGGING_DIR says where) or wandb, if installed; may be given several times (default: nowhere)"""
    evaluations: PositiveInt = 8
    """number of evaluations, each with a checkpoint, spread over the steps"""
    patience: PositiveInt | None = None
    """evaluations without improvement after which training stops; default: it never stops early, since at a large
    learning rate the loss may rise before it falls"""
    gradient_checkpointing: bool = False
    """compute activations twice to save memory"""
    shard: bool | None = None
    """each of several processes keeps a part of the weights, gradients and moments, by FSDP2; default: where all
    weights cannot be trained otherwise"""
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
        packaged = self.reads_plain_text and self.text_share > 0
        return self.text or [LIBRARY_SOURCE, PROBLEM_SOURCE] * packaged

    @property
    def text_kinds(self) -> Mapping[str, float]:
        """The shares of the kinds of plain text if no source is named."""
        return self.mix or TEXT_KINDS

    @property
    def trains(self) -> bool:
        """Whether the settings request a training, so that `flab prune` continues with one."""
        return bool(self.data or self.text or self.mix)

    def for_method(self, method: Literal["full", "lora"]) -> RecoveryConfig:
        """The settings for a method, with its defaults where nothing is set."""
        unset = {name: value for name, value in METHOD_DEFAULTS[method].items() if getattr(self, name) is None}
        return self.model_copy(update={"method": method, **unset})

    def largest_rate(self, steps: int) -> float:
        """The learning rate that was requested, or that of the method for a training of this length."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES[self.method] * min(1.0, FULL_RATE_STEPS / steps) ** (1 / 3)

    @property
    def sources(self) -> list[str]:
        """Every source that is read."""
        return [*self.data, *self.text_sources, *self.exclude, *self.held_out]

    @field_validator("mix")
    @classmethod
    def _refuse_no_share(cls, value: dict[str, float]) -> dict[str, float]:
        if value and not any(value.values()):
            raise ValueError("Input leaves no text; set the share of one kind above 0")
        return value

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> RecoveryConfig:
        lora_only = [name for name in LORA_ONLY if getattr(self, name)]
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}; use a divisor"
            )
        if self.method == "full" and lora_only:
            raise ValueError(f"`{lora_only[0]}` applies to LoRA, but `method` is 'full'; leave one of them out")
        if (self.text or self.mix or not self.data) and not self.reads_plain_text:
            raise ValueError(
                "plain text has no answers, so loss 'cross-entropy' and distill_on 'answer' learn nothing from it;"
                " name instruction data in `recovery.data`, and neither `recovery.text` nor `recovery.mix`"
            )
        if not self.data and not self.text_sources:
            raise ValueError("text_share is 0, so there is nothing to train on; name sources in `recovery.data`")
        refuse_shared(self.held_out, [*self.data, *self.text_sources])
        return self
