"""Which number format llama.cpp's quantiser gives each tensor of a file: facts of its mixtures, to count bytes by."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..settings.export import OWN_TYPES
from .weights import GgufPiece


# By type of file: the format of most matrices, then what differs: a part of the layers, where that is (the first rule
# that holds counts), and its format: the larger one where that depends on whether there is an importance matrix.
MIXTURES: dict[str, tuple[str, ...]] = {
    "iq1_s": ("IQ1_S", "v grouped Q4_K", "v all Q2_K", "o all IQ2_XXS", "down eighth Q2_K"),
    "iq1_m": ("IQ1_M", "v grouped Q4_K", "v all Q2_K", "o all IQ2_XXS", "down eighth Q2_K"),
    "iq2_xxs": ("IQ2_XXS", "v grouped Q4_K", "v all Q2_K", "down eighth Q2_K"),
    "iq2_xs": ("IQ2_XS", "v grouped Q4_K", "v all Q2_K", "down eighth Q2_K"),
    "iq2_s": ("IQ2_XS", "v grouped Q4_K", "v all IQ3_S", "o all IQ3_S", "down eighth IQ3_S"),
    "iq2_m": ("IQ2_S", "v grouped Q4_K", "v all IQ3_S", "o all IQ3_S", "down eighth IQ3_S"),
    "iq3_xxs": ("IQ3_XXS", "v grouped Q4_K", "q all IQ2_S", "k all IQ2_S", "o all IQ3_S"),
    "iq3_xs": (
        *("IQ3_S", "v grouped Q4_K", "q all IQ3_XXS", "k all IQ3_XXS"),
        *("gate middle IQ3_XXS", "up middle IQ3_XXS"),
    ),
    "iq3_s": ("IQ3_S", "v grouped Q4_K"),
    "iq3_m": ("IQ3_S", "v all Q4_K", "o all Q4_K", "down eighth Q4_K"),
    "iq4_xs": ("IQ4_XS", "v grouped Q5_K", "down eighth Q5_K"),
    "iq4_nl": ("IQ4_NL", "v grouped Q5_K", "down eighth Q5_K"),
    "q2_k": ("Q2_K", "v grouped Q4_K", "v all Q3_K", "o all Q3_K", "down all Q3_K"),
    "q2_k_s": ("Q2_K", "v grouped Q4_K", "down eighth Q4_K"),
    "q3_k_s": ("Q3_K",),
    "q3_k_m": ("Q3_K", "v two Q5_K", "v all Q4_K", "o all Q4_K", "down sixteenth Q5_K", "down all Q4_K"),
    "q3_k_l": ("Q3_K", "v all Q5_K", "o all Q5_K", "down all Q5_K"),
    "q4_0": ("Q4_0", "down eighth Q4_1"),
    "q4_1": ("Q4_1",),
    "q4_k_s": ("Q4_K", "v four Q5_K", "down eighth Q5_K"),
    "q4_k_m": ("Q4_K", "v more Q6_K", "down more Q6_K"),
    "q5_0": ("Q5_0", "down eighth Q5_1"),
    "q5_1": ("Q5_1",),
    "q5_k_s": ("Q5_K",),
    "q5_k_m": ("Q5_K", "v more Q6_K", "down more Q6_K"),
    "q6_k": ("Q6_K",),
}
PARTS = {
    **{"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_qkv": "v", "attn_output": "o"},
    **{"ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"},
}
# what has an output head of Q5_K, and how its embeddings are stored where the head is another matrix
COARSE = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"), "Q2_K"),
    **dict.fromkeys(("iq2_s", "iq2_m", "iq3_xxs"), "IQ3_S"),
}
# for rows that are not a multiple of 256
FALLBACKS = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **{"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"},
}
TWO_BITS = frozenset(COARSE) - {"iq3_xxs"}  # or fewer
# where a model has exactly eight experts, the types whose attention output is of Q5_K
FINER_OUTPUT = TWO_BITS | {
    *("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq3_xxs", "iq3_xs", "iq3_s", "iq3_m", "iq4_xs", "iq4_nl"),
}
ALIGNMENT = 32  # of each tensor in a file
# query heads of each key-value head, or, of two bits, experts, from which a format of its own is worth it
GROUPED = 4


@dataclass(frozen=True)
class QuantisedFile:
    """What a tensor's format depends on besides its own name and shape.

    Args:
        kind (`str`): the type of the file, one of [`~settings.export.ExportSettings`].
        layers (`int`): of the model.
        grouped (`float`): query heads of each key-value head.
        tied (`bool`): whether the output head is the embedding.
        experts (`int`): of each layer; 0 in a model that is no mixture.
    """

    kind: str
    layers: int
    grouped: float
    tied: bool
    experts: int = 0

    @property
    def rules(self) -> list[str]:
        """What differs from the usual format: the first that holds counts."""
        usual, *rules = MIXTURES[self.kind]
        if self.experts != 8:
            return rules
        inputs = "Q4_K" if self.kind in TWO_BITS else "Q8_0"
        output = "Q5_K" if self.kind in FINER_OUTPUT else usual
        down = ["down more Q4_K"] if self.kind == "iq3_m" else []
        return [f"k all {inputs}", f"v all {inputs}", f"o all {output}", *down, *rules]

    def holds(self, where: str, layer: int) -> bool:
        """Whether a layer is one of those that a rule is about."""
        layers, eighth = self.layers, self.layers // 8
        return {
            "all": True,
            "two": layer < 2,
            "four": layer < 4,
            "sixteenth": layer < layers // 16,
            "eighth": layer < eighth,
            "middle": eighth <= layer < 7 * layers // 8,
            "more": layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2,
            "grouped": max(self.grouped, self.experts if self.kind in TWO_BITS else 0) >= GROUPED,
        }[where]


def stored_bytes(shape: Sequence[int], kind: str) -> int:
    """The bytes of a tensor of this shape in a number format."""
    weights, size = _blocks()[kind]
    return math.prod(shape) // weights * size


def aligned(size: int) -> int:
    """The bytes that a tensor takes in a file, or the head of it."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def tensor_format(piece: GgufPiece, row: int, file: QuantisedFile) -> str:
    """The number format of a tensor in a file, such as Q6_K.

    Args:
        piece ([`GgufPiece`]): the tensor.
        row (`int`): weights in one of its rows.
        file ([`QuantisedFile`]): of the file.
    """
    blocks = _blocks()
    part = piece.name.removesuffix(".weight")
    if not piece.is_matrix:
        return "F32"
    if file.kind in OWN_TYPES:
        found = file.kind.upper()
    elif part == "output" or (part == "token_embd" and file.tied):
        is_wide = row % blocks[MIXTURES[file.kind][0]][0] == 0
        found = ("Q5_K" if file.kind in COARSE else "Q6_K") if is_wide else "Q8_0"
    elif part == "token_embd":
        found = COARSE.get(file.kind, MIXTURES[file.kind][0])
    else:
        found = _in_layer(part, file)
    if row % blocks[found][0]:
        found = FALLBACKS.get(found, "F16")
    return found if row % blocks[found][0] == 0 else "F16"


def _in_layer(name: str, file: QuantisedFile) -> str:
    match = re.fullmatch(r"blk\.(\d+)\.(\w+?)(_exps)?", name)
    for rule in file.rules if match else ():
        part, where, found = rule.split()
        if match and PARTS.get(match[2]) == part and file.holds(where, int(match[1])):
            return found
    return MIXTURES[file.kind][0]


@cache
def _blocks() -> dict[str, tuple[int, int]]:
    """The weights of a block of each format, and its bytes."""
    import gguf

    return {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
