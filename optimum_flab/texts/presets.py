"""The presets of the vocabulary: packaged words from many packages' source code, with their counts.

A word is a unit into which nearly every tokenizer splits text, such as ` return`, `.append`, `):` with the line end
after it, or a line end with an indentation. Which tokens words consist of depends on the tokenizer, so words are
shipped, and tokens are counted where they are used. `benchmarks/count_words.py` makes the files; another file beside
each lists the packages with their versions and licences.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..settings.pruning import PRESETS


FOLDER = Path(__file__).with_name("presets")
ALL = "all-code"  # all the others together


@dataclass(frozen=True)
class CountedWords:
    """Words, and how often each was found.

    Args:
        words (`tuple[str, ...]`): texts, no two alike.
        counts (`np.ndarray`): int64, one per word, relative to the count of the rarest word.
    """

    words: tuple[str, ...]
    counts: np.ndarray


def preset_words(name: str) -> list[CountedWords]:
    """The words of a preset, separately for each kind of code.

    Args:
        name (`str`): one of [`~settings.pruning.PRESETS`].
    """
    return [_read(preset_file(part)) for part in preset_parts(name)]


def preset_parts(name: str) -> list[str]:
    """The names of the files that make up a preset."""
    return [part for part in PRESETS if part != ALL] if name == ALL else [name]


def preset_texts(name: str) -> list[str]:
    """The contents of a preset that affect results, as texts to hash: words and counts of each part, as packaged."""
    return [lzma.decompress(preset_file(part).read_bytes()).decode("utf-8") for part in preset_parts(name)]


def preset_file(part: str) -> Path:
    """The file with the words of a kind of code: lists of words by count, as compressed JSON."""
    return FOLDER / f"{part}.json.xz"


@cache
def _read(file: Path) -> CountedWords:
    by_count = json.loads(lzma.decompress(file.read_bytes()))
    words = tuple(word for alike in by_count.values() for word in alike)
    counts = np.repeat([int(count) for count in by_count], [len(alike) for alike in by_count.values()])
    return CountedWords(words, counts.astype(np.int64))
