"""What a user can ask for, as validated sections. Lightweight: the command line reads its defaults from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from ..utils.units import as_size
from .components import ComponentSettings, ExpertSettings, FFNSettings, LayerSettings, VocabularySettings
from .export import GGUFType
from .recovery import RecoveryConfig
from .section import NO_FLAG, Flag, Section, Seed, Sources, TextTokens, refuse_shared, sections_in


# Written along with the settings by this package, optimum and transformers; not settings of the pruning.
BOOKKEEPING = frozenset(
    {"flab_version", "optimum_version", "transformers_version", "model_type", "_commit_hash", "_name_or_path"}
)

# The composition of calibration text: kind -> its default share of the tokens.
KINDS = {"own": 0.3, "answers": 0.0, "problems": 0.2, "library": 0.15, "chat": 0.1, "infilling": 0.25}
# The kind of text that is named in `data.held_out`; reports measure it along with the others.
NAMED_HELD_OUT = "held-out"

# Calibration tokens that `auto` stands for: as many for each neuron of a layer, but at least and at most.
TOKENS_PER_NEURON = 8
FEWEST_TOKENS = 32_768
MOST_TOKENS = 65_536

TextKind = Literal[(*KINDS,)]  # type: ignore[valid-type]

# The packaged word counts that may replace a corpus; the last one is all others together.
PRESETS = ("python", "web", "systems", "all-code")


TARGETS = ("target_ratio", "target_size")  # one of them


class DataSettings(Section):
    """The text that decides what is kept.

    A source is a file, a folder, a Hub dataset, or one of these with columns in brackets
    (`problems.jsonl[prompt,canonical_solution]`): the columns of a row are concatenated as they are.
    """

    corpus: Sources = []
    """sources whose tokens stay in the vocabulary; empty: the source of the Python standard library and of the
    packages that this one requires"""
    preset: Literal[PRESETS] | None = None  # type: ignore[valid-type]
    """packaged words for one kind of code, whose tokens stay in the vocabulary along with those of the corpus; if no
    corpus is named, they replace the default one"""
    counts: Annotated[Sources, Flag(metavar="FILE", several=True)] = []
    """files that `flab count` wrote, whose counts are added up: the tokens counted stay in the vocabulary along with
    those of the corpus; if no corpus is named, they replace the default one"""
    calibration: Sources = []
    """sources from which your own share of the calibration text is sampled; empty: the corpus"""
    mix: Annotated[dict[TextKind, NonNegativeFloat], Flag(metavar="KIND=SHARE")] = KINDS
    """share of the calibration, validation and held-out tokens of a kind of text: own (your sources), answers (the
    dense model's own, to packaged problems), problems, library (installed Python source), chat, infilling (gaps to
    fill in the middle); kinds that are not named get none, unless all values are 0, which only leaves kinds out; may
    be given several times (default: own=0.3, problems=0.2, library=0.15, chat=0.1, infilling=0.25)"""
    held_out: Sources = []
    """sources used only for measuring; empty: documents set aside from the calibration sources"""
    calibration_tokens: TextTokens | Literal["auto"] = "auto"
    """maximum number of tokens for collecting statistics; auto: 8 for each neuron of a layer, from 32,768 to
    65,536"""
    validation_tokens: TextTokens = 4096
    """maximum number of tokens for choosing between candidate shapes"""
    held_out_tokens: TextTokens = 8192
    """about how many tokens the report measures on, from named sources and from text set aside each; these are whole
    documents, so there may be more; a quarter of them where only tokens were removed"""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """tokens per packed sequence"""
    batch_size: PositiveInt = 8
    """sequences per forward pass"""

    @field_validator("mix")
    @classmethod
    def _refuse_no_share(cls, value: dict[str, float]) -> dict[str, float]:
        if value and not any(value.values()):  # it only says what to leave out
            value = {**KINDS, **value}
        if not any(value.values()):
            raise ValueError("Input leaves no text; set the share of one kind above 0")
        return value

    @model_validator(mode="after")
    def _refuse_no_text_or_the_same_twice(self) -> DataSettings:
        if self.tokens < self.sequence_length:
            raise ValueError(
                f"`data.calibration_tokens` {self.calibration_tokens} is less than one sequence"
                f" (`data.sequence_length` is {self.sequence_length}); raise it or shorten the sequences"
            )
        refuse_shared(self.held_out, [*self.calibration, *self.corpus])
        return self

    @property
    def tokens(self) -> int:
        """The calibration tokens as a number; until the model is known, the least that `auto` stands for."""
        if self.calibration_tokens == "auto":
            return max(FEWEST_TOKENS, self.sequence_length)
        return self.calibration_tokens

    def for_model(self, neurons: int) -> DataSettings:
        """The same with the number of calibration tokens that `auto` stands for.

        Args:
            neurons (`int`): of a layer's FFN, or of one expert.
        """
        if self.calibration_tokens != "auto":
            return self
        rows = -(-TOKENS_PER_NEURON * neurons // self.sequence_length)
        tokens = max(self.tokens, min(rows * self.sequence_length, MOST_TOKENS))
        return self.model_copy(update={"calibration_tokens": tokens})

    @property
    def uses_default_corpus(self) -> bool:
        """Whether nothing that decides the vocabulary is named."""
        return not (self.corpus or self.counts) and self.preset is None

    @property
    def sources(self) -> list[str]:
        """Every source that is read."""
        return [*self.corpus, *self.calibration, *self.held_out]


class PrunerSettings(Section):
    """Everything a user can ask for: the target, sizes under the names of a model's configuration, and how to get
    there, one section per concern."""

    target_ratio: Annotated[float | None, Field(gt=0, lt=1)] = None
    """share of all parameters to remove, between 0 and 1, for example 0.35"""
    target_size: Annotated[str | None, BeforeValidator(as_size)] = None
    """size that the GGUF file must not exceed, which is written too; instead of a share: 300MB (300 million bytes),
    1.2GB or 286MiB"""
    target_type: GGUFType | None = None
    """GGUF type of the file that --target-size is about, such as q4_k_m; default: each matrix gets its own format, in
    which all together lose least within the size"""
    vocab_size: PositiveInt | None = None
    """tokens to keep; default: decided by the target, or the natural size"""
    num_hidden_layers: PositiveInt | None = None
    """layers to keep; default: decided by the target, or all"""
    intermediate_size: PositiveInt | None = None
    """width to keep; default: decided by the target, or all"""
    num_experts: PositiveInt | None = None
    """experts to keep per layer; default: decided by the target if their removal is enabled, or all"""
    seed: Seed = 0
    """seed of every random choice"""
    align: Annotated[int | None, Field(ge=1, le=1024)] = None
    """number of devices that share each layer when the model is served (tensor parallelism, as in vLLM): the width and
    the rows of the vocabulary are multiples of 64 for each of them"""
    data: DataSettings = Field(default_factory=DataSettings)
    vocabulary: VocabularySettings = Field(default_factory=VocabularySettings)
    layers: LayerSettings = Field(default_factory=LayerSettings)
    ffn: FFNSettings = Field(default_factory=FFNSettings)
    experts: ExpertSettings = Field(default_factory=ExpertSettings)
    recovery: Annotated[RecoveryConfig, NO_FLAG] = Field(default_factory=RecoveryConfig)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_bookkeeping(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None and name not in BOOKKEEPING}

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> PrunerSettings:
        pinned = [part.size for part in COMPONENTS if getattr(self, part.size) is not None]
        for part in COMPONENTS:
            if part.size in pinned and getattr(self, part.section).enabled is False:
                raise ValueError(
                    f"{part.size}: {getattr(self, part.size):,} has no effect, since {part.section}.enabled is false;"
                    " drop one of them"
                )
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            raise ValueError(f"target_size: {self.target_size} is another target than target_ratio; drop one of them")
        if self.target_type is not None and self.target_size is None:
            other = f" (`flab prune --gguf {self.target_type}` writes such a file of any size)"
            raise ValueError(
                f"target_type: {self.target_type} says which file `target_size` is about, which is not set; set it, or"
                f" drop the type{other}"
            )
        is_settled = all(part.size in pinned or not getattr(self, part.section).enabled for part in COMPONENTS)
        if targets and is_settled and (self.target_ratio is not None or self.target_type is not None):
            raise ValueError(
                f"{targets[0]}: {getattr(self, targets[0])} leaves nothing to choose, since every component is pinned"
                f" ({', '.join(pinned) or 'none'}) or not enabled; drop {targets[0]} or free one of them"
            )
        return self


SECTIONS = sections_in(PrunerSettings)
COMPONENTS = tuple(kind for kind in SECTIONS.values() if issubclass(kind, ComponentSettings))


def merge_settings(base: Mapping[str, Any], winning: Mapping[str, Any]) -> dict[str, Any]:
    """Override settings with others, field by field; neither is validated here.

    A target in `winning` replaces one of either kind in `base`, and a share the type of the file too. A size in
    `winning` also overrules `enabled: false` of the same component in `base`, and switching a component off overrules
    its size: the last value wins, and only settings from the same place can contradict each other.

    Args:
        base (`Mapping[str, Any]`): the fields of a configuration file.
        winning (`Mapping[str, Any]`): the fields that take precedence, lists included: they are replaced, not
            extended.

    Returns:
        `dict[str, Any]`: the fields of both.
    """
    winning = _plain(winning)
    others = {other for name in TARGETS if winning.get(name) is not None for other in TARGETS}
    others |= {"target_type"} if winning.get("target_ratio") is not None else set()
    merged = {name: value for name, value in _plain(base).items() if name not in others}
    for part in COMPONENTS:
        above, below = winning.get(part.section), merged.get(part.section)
        if isinstance(above, Mapping) and above.get("enabled") is False:
            merged.pop(part.size, None)
        if winning.get(part.size) is not None and isinstance(below, Mapping):
            merged[part.section] = {field: value for field, value in below.items() if field != "enabled"}
    for name, value in winning.items():
        below = merged.get(name) or {}
        if not isinstance(value, Mapping):
            merged[name] = value
        elif isinstance(below, Mapping):
            merged[name] = {**below, **value}
    return merged


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        for name, value in settings.items()
    }
