"""Where finished work is kept between runs. Ground floor."""

from __future__ import annotations

from pathlib import Path


def cache_root(name: str) -> Path:
    """The folder of one kind of kept work: `optimum_flab/<name>` in the folder of the Hugging Face cache (`HF_HOME`).

    Args:
        name (`str`): whose work is kept, such as `"evaluation"`.

    Returns:
        `Path`: the folder; it need not exist.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "optimum_flab", name)
