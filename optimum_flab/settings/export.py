"""The settings of an export, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from ..utils.units import as_size
from .section import Flag, Section


OWN_TYPES = ("f32", "f16", "bf16", "q8_0")  # written without llama.cpp's quantiser
# made by it only with an importance matrix
MATRIX_TYPES = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "q2_k_s", "iq3_xxs", "iq3_xs")
QUANTISED_TYPES = (
    *MATRIX_TYPES,
    *("q2_k", "iq3_s", "iq3_m", "q3_k_s", "q3_k_m", "q3_k_l", "iq4_xs", "iq4_nl", "q4_0", "q4_1", "q4_k_s", "q4_k_m"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
TYPES = (*OWN_TYPES, *QUANTISED_TYPES)


def _in_lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


GGUFType = Annotated[Literal[TYPES], BeforeValidator(_in_lower_case)]  # type: ignore[valid-type]


class ExportSettings(Section):
    """How a GGUF file is written; the `export` section of a settings file."""

    type: GGUFType = Field(
        default="f16",
        description="number format of the matrices, in capitals or not; all but"
        f" {', '.join(OWN_TYPES)} are made by llama.cpp's quantiser, see `docs/gguf.md`",
    )
    imatrix: bool = True
    """let an importance matrix say which weights the quantiser rounds with most care: the mean squares of what they
    multiply on calibration text"""
    pre_tokenizer: Annotated[str | None, Flag(metavar="NAME")] = None
    """llama.cpp's name for the pre-tokenizer of a byte-level tokenizer, for example qwen2 (default: the one that
    matches the tokenizer)"""
    split_megabytes: PositiveInt | None = None
    """maximum megabytes of weights in one file, which is split beyond that (default: one file)"""
    target_size: Annotated[str | None, BeforeValidator(as_size)] = None
    """size that the file must not exceed, for example 235MB; in place of a type: each matrix gets the format in which
    all together lose least within it (default: a file of one type)"""
    overwrite: bool = False
    """replace existing files"""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> ExportSettings:
        if self.target_size is not None and "type" in self.model_fields_set:
            raise ValueError(
                f"target_size: {self.target_size} is met by a format for each matrix, and `type` {self.type} is one"
                " for all; drop one of them"
            )
        if self.target_size is not None and not self.imatrix:
            raise ValueError("imatrix: the formats of a file of a size are found with an importance matrix; allow one")
        if self.type in MATRIX_TYPES and not self.imatrix:
            others = ", ".join(one for one in QUANTISED_TYPES if one not in MATRIX_TYPES)
            raise ValueError(
                f"imatrix: {self.type} is not made without an importance matrix; allow one, or use {others}"
            )
        return self

    @property
    def is_quantised(self) -> bool:
        """Whether llama.cpp's quantiser makes the file."""
        return self.target_size is not None or self.type in QUANTISED_TYPES

    @property
    def weighs(self) -> bool:
        """Whether an importance matrix is made."""
        return self.imatrix and self.is_quantised
