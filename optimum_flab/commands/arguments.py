"""Arguments that several verbs of `optimum-cli flab` share. Lightweight, like `base.py`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..utils.compat import ArgumentGroup


DTYPES = ("float32", "bfloat16", "float16")  # the dtypes of computation


def add_switch(group: ArgumentGroup, flag: str, purpose: str, default: str = "no") -> None:
    """Declare a flag without a value; `default` says what happens without it."""
    group.add_argument(flag, action="store_true", help=f"{purpose} (default: {default})")


def add_model(
    required: ArgumentGroup, optional: ArgumentGroup, role: str = "dense model", always: bool = True
) -> None:
    """Declare the flags that say which model to read; `role` is what the help calls it.

    If it is not `always` required, the verb says when it is.
    """
    required.add_argument(
        "-m", "--model", metavar="MODEL", required=always, help=f"{role}: a Hub id, a local folder, or a GGUF file"
    )
    add_revision(optional)
    add_switch(optional, "--trust-remote-code", "run the Python code in the model's repository")
    add_family(optional)


def of_model(args: Namespace) -> dict[str, Any]:
    """What these flags say of the model, as keywords of the library."""
    return {name: getattr(args, name) for name in ("revision", "trust_remote_code", "family")}


def add_revision(optional: ArgumentGroup, flag: str = "--revision", role: str = "model") -> None:
    """Declare the flag that says which revision of a model to read."""
    optional.add_argument(
        flag, metavar="REVISION", help=f"branch, tag or commit of a {role} on the Hub (default: its main branch)"
    )


def add_baseline(optional: ArgumentGroup) -> None:
    """Declare the flags that say which model to compare with."""
    optional.add_argument(
        "--baseline",
        metavar="MODEL",
        help="model to compare with, usually the dense one, named like --model (default: none)",
    )
    add_revision(optional, "--baseline-revision", "baseline")


def add_device(optional: ArgumentGroup) -> None:
    """Declare the flag that says where to compute."""
    optional.add_argument(
        "--device", help="device to compute on, for example cpu or cuda:0 (default: chosen automatically)"
    )


def add_dtype(optional: ArgumentGroup, computed: str) -> None:
    """Declare the flag for the number format of what is `computed`."""
    optional.add_argument(
        "--dtype", choices=DTYPES, default="float32", help=f"number format of {computed} (default: float32)"
    )


def add_family(optional: ArgumentGroup) -> None:
    """Declare the flag that names a family file."""
    optional.add_argument(
        "--family",
        type=Path,
        metavar="FILE",
        help="JSON file that describes the model's family, where it is not a known one (default: a known family)",
    )


def add_resume(optional: ArgumentGroup) -> None:
    """Declare the flag that says that finished work is not used."""
    add_switch(
        optional, "--no-resume", "start over, whatever an interrupted run left", default="resume where it stopped"
    )


def add_cache(optional: ArgumentGroup, stage: str, kept: str = "finished work") -> None:
    """Declare the flag that says where finished work is kept.

    Args:
        stage (`str`): whose cache folder is the default.
        kept (`str`): what is kept.
    """
    optional.add_argument(
        "--cache-dir",
        metavar="FOLDER",
        help=f"folder that keeps {kept}, so that an interrupted run can resume (default: optimum_flab/{stage} in"
        " HF_HOME)",
    )
