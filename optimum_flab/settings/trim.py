"""The settings of a trim: those of a pruning that decide the vocabulary. Lightweight."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from .components import VocabularySettings
from .pruning import DataSettings, as_size
from .section import Flag, Section, Seed, Share


COVERAGE = 0.9995  # at which no loss could be measured, see docs/results.md


class TrimmedVocabulary(VocabularySettings):
    """Which tokens stay."""

    coverage: Annotated[Share, Flag(metavar="SHARE")] = COVERAGE
    """share of the corpus' tokens to keep whole, with equal weight for each source: the least used tokens are dropped
    down to that; the first merges always stay"""


class TrimSettings(Section):
    """What decides which tokens stay, without any other part of a pruning."""

    target_size: Annotated[str | None, BeforeValidator(as_size)] = None
    """size that the files with weights must not exceed: 300MB, 1.2GB or 286MiB; as many tokens stay as fit; default:
    what the coverage asks for"""
    vocab_size: PositiveInt | None = None
    """tokens to keep; default: as many as the coverage asks for, or as fit"""
    seed: Seed = 0
    """seed of every random choice"""
    data: DataSettings = Field(default_factory=DataSettings)
    vocabulary: TrimmedVocabulary = Field(default_factory=TrimmedVocabulary)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> TrimSettings:
        if not self.vocabulary.enabled:
            raise ValueError("vocabulary.enabled: only the vocabulary is trimmed; leave it on")
        if self.target_size is not None and self.vocab_size is not None:
            raise ValueError("`target_size` and `vocab_size` both say how many tokens stay; drop one of them")
        return self


# the settings that make a difference here
OWN = (
    *("target_size", "vocab_size", "seed"),
    *("data.corpus", "data.preset", "data.counts", "data.held_out", "data.held_out_tokens"),
    *("vocabulary.min_count", "vocabulary.coverage", "vocabulary.keep_merges"),
    *("vocabulary.keep_tokens", "vocabulary.pad_to_multiple_of"),
)
