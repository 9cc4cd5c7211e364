"""The files that hold the weights of a folder, by its index. Lightweight."""

from __future__ import annotations

from pathlib import Path

from ..utils.errors import DOWNLOAD, FlabError
from .json_files import read_json
from .names import WEIGHTS


def shards(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The files that weights of this kind are read from, sorted; those that are missing are left out."""
    return [path for path in listed_shards(folder, name) if path.is_file()]


def listed_shards(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The files that weights of this kind are to be read from, sorted, whether they are there or not.

    Args:
        name (`str`): of the file where there is only one, such as `pytorch_model.bin`.

    Raises:
        [`FlabError`]: the index of the files is damaged, or names files elsewhere.
    """
    single = folder / name
    index = folder / f"{name}.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    stated = read_json(index, DOWNLOAD).get("weight_map")
    names = list(stated.values()) if isinstance(stated, dict) else []
    if not names or not all(isinstance(file, str) and Path(file).name == file for file in names):
        raise FlabError(f"{str(index)!r} does not name the weight files of its folder; download it again")
    return [folder / file for file in sorted(set(names))]
