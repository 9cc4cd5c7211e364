"""The settings of an export, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from .section import Flag, Section


OWN_TYPES = ("f32", "f16", "bf16", "q8_0")  # written without llama.cpp's quantiser
QUANTISED_TYPES = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)


class ExportSettings(Section):
    """How a GGUF file is written; the `export` section of a settings file."""

    type: Literal[(*OWN_TYPES, *QUANTISED_TYPES)] = Field(  # type: ignore[valid-type]  # the names are above
        default="f16",
        description=f"number format of the matrices; all but {', '.join(OWN_TYPES)} are made by llama-cpp-python,"
        " which has to be installed (pip install 'optimum-flab[gguf]')",
    )
    pre_tokenizer: Annotated[str | None, Flag(metavar="NAME")] = None
    """llama.cpp's name for the pre-tokenizer of a byte-level tokenizer, for example qwen2 (default: the one that
    matches the tokenizer)"""
    split_megabytes: PositiveInt | None = None
    """maximum megabytes of weights in one file, which is split beyond that (default: one file)"""
    overwrite: bool = False
    """replace existing files"""
