"""The settings and the names of what pruning makes smaller: a section for each component. Lightweight."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from ..criteria import EXPERTS, LAYERS, NEURONS
from .section import Flag, Section, Share, Sources


class ComponentSettings(Section):
    """The settings of a part of a model that pruning makes smaller along one dimension, and its names.

    Args:
        section (`str`): of the settings.
        dimension (`str`): of tensors, as families name it.
        size (`str`): its size, as configurations of models, settings and reports name it.
        label (`str`): the size in tables.
        units (`str`): what it counts.
    """

    section: ClassVar[str]
    dimension: ClassVar[str]
    size: ClassVar[str]
    label: ClassVar[str]
    units: ClassVar[str]

    enabled: bool | None = True


class VocabularySettings(ComponentSettings):
    """How the vocabulary is pruned."""

    section = "vocabulary"
    dimension = "vocab"
    size = "vocab_size"
    label = "vocabulary (tokens)"
    units = "tokens"

    enabled: Annotated[bool, Flag("--keep-vocabulary")] = True
    """prune the vocabulary, which a draft model must share with its target"""
    min_count: PositiveInt = 1
    """least number of occurrences in the corpus for a token to be kept"""
    coverage: Annotated[Share, Flag(metavar="SHARE")] = 1.0
    """share of the corpus' tokens to keep whole, with equal weight for each source: the least used tokens are dropped
    down to that; the first merges always stay"""
    keep_merges: NonNegativeInt = 20000
    """number of first merges of the tokenizer (first tokens, if it has no merges) kept whatever the corpus holds"""
    keep_used: bool = False
    """never drop a token of the natural vocabulary to meet the target, whatever that saves elsewhere"""
    keep_tokens: Annotated[Sources, Flag("--keep-token", "TOKEN")] = []
    """tokens kept whatever the corpus holds"""
    pad_to_multiple_of: Annotated[PositiveInt | None, Flag("--pad-vocab-to-multiple-of")] = None
    """pad the embedding rows to a multiple of this"""


class LayerSettings(ComponentSettings):
    """How whole layers are removed."""

    section = "layers"
    dimension = "layer"
    size = "num_hidden_layers"
    label = "layers"
    units = "layers"

    enabled: Annotated[bool, Flag("--no-layers")] = True
    """remove whole layers"""
    criterion: Annotated[Literal[tuple(LAYERS)], Flag("--layer-criterion")] = "divergence"  # type: ignore[valid-type]  # the names are in criteria/
    """what ranks the layers"""
    search_tokens: PositiveInt = 1024
    """calibration tokens the depth search runs on"""


class FFNSettings(ComponentSettings):
    """How the feed-forward networks are narrowed."""

    section = "ffn"
    dimension = "neuron"
    size = "intermediate_size"
    label = "FFN width"
    units = "neurons of the FFNs"

    enabled: Annotated[bool, Flag("--no-ffn")] = True
    """narrow the feed-forward networks"""
    multiple_of: Annotated[PositiveInt | None, Flag("--ffn-multiple-of")] = None
    """the width is a multiple of this; default: 256 or 64: 256, which llama.cpp's K-quants need, if the dense width is
    such a multiple, has 8 such steps, and the vocabulary can make up the rest of a target"""
    criterion: Annotated[Literal[tuple(NEURONS)], Flag("--ffn-criterion")] = "obs"  # type: ignore[valid-type]
    """what ranks the neurons, and how the removal is compensated"""


class ExpertSettings(ComponentSettings):
    """How whole experts of a mixture are removed. If they are, their width stays unless it is pinned."""

    section = "experts"
    dimension = "expert"
    size = "num_experts"
    label = "experts per layer"
    units = "experts"

    enabled: Annotated[bool | None, Flag("--experts")] = None
    """remove whole experts of a mixture of experts; default: if their number is given"""
    criterion: Annotated[Literal[tuple(EXPERTS)], Flag("--expert-criterion")] = "reap"  # type: ignore[valid-type]
    """what ranks the experts"""
