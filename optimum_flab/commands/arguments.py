"""Arguments that several verbs of `optimum-cli flab` share. Lightweight, like `base.py`."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..utils.compat import ArgumentGroup


DTYPES = ("float32", "bfloat16", "float16")  # the dtypes of computation

# flag -> what the help calls its value (None: it takes none), and its help
SHARED: dict[str, tuple[str | None, str]] = {
    "--revision": ("REVISION", "branch, tag or commit of the model on the Hub (default: its main branch)"),
    "--trust-remote-code": (None, "run the Python code in the model's repository (default: no)"),
    "--family": ("FILE", "JSON file that describes the model's family, where it is not a known one (default: none)"),
    "--baseline": (
        "MODEL",
        "model to compare with, a Hub id, folder or GGUF file; usually the dense one (default: none)",
    ),
    "--baseline-revision": ("REVISION", "branch, tag or commit of the baseline on the Hub (default: its main branch)"),
    "--teacher-revision": ("REVISION", "branch, tag or commit of the teacher on the Hub (default: its main branch)"),
    "--device": (
        "DEVICE",
        "device to compute on, for example cpu or cuda:0; auto: the first GPU, else the CPU; prune, eval and chat"
        " spread a model that it has no room for over all GPUs (default: auto)",
    ),
    "--prompt": ("TEXT", "complete this text with the dense and the pruned model at the end (default: do not)"),
    "--overwrite": (None, "replace what an earlier run wrote there (default: refuse)"),
    "--confirm-run-unsafe-code": (None, "consent to run programs written by models, sandboxed (default: no)"),
    "--no-resume": (None, "start over, whatever an interrupted run left (default: resume where it stopped)"),
    "--quiet": (None, "show no progress and no notes while it runs, only errors (default: no)"),
    "--json": (None, "print the results as JSON in place of tables (default: no)"),
    "--cache-dir": ("FOLDER", "folder of finished work, from which a run resumes (default: one in HF_HOME)"),
}


def add(group: ArgumentGroup, *flags: str) -> None:
    """Declare some of the shared flags."""
    for flag in flags:
        metavar, text = SHARED[flag]
        options: dict[str, Any] = {"action": "store_true"} if metavar is None else {"metavar": metavar}
        options |= {"type": _named_device} if flag == "--device" else {}
        short = ["-q"] if flag == "--quiet" else []
        group.add_argument(*short, flag, help=text, **options)


def _named_device(device: str) -> str | None:
    return None if device == "auto" else device


def add_model(
    required: ArgumentGroup, optional: ArgumentGroup, role: str = "dense model", always: bool = True
) -> None:
    """Declare the flags that say which model to read; `role` is what the help calls it.

    If it is not `always` required, the verb says when it is.
    """
    required.add_argument(
        "-m", "--model", metavar="MODEL", required=always, help=f"{role}: a Hub id, a local folder, or a GGUF file"
    )
    add(optional, "--revision", "--trust-remote-code", "--family")


def add_folder(required: ArgumentGroup, what_happens: str = "") -> None:
    """Declare the flag that names the folder of a pruned model."""
    text = f"folder that `optimum-cli flab prune` wrote{what_happens}"
    required.add_argument("-m", "--model", dest="folder", metavar="FOLDER", required=True, help=text)


def of_model(args: Namespace) -> dict[str, Any]:
    """What these flags say of the model, as keywords of the library."""
    return {name: getattr(args, name) for name in ("revision", "trust_remote_code", "family")}


def words_of_model(args: Namespace) -> list[str]:
    """These flags as the user gave them, for a command that is likely next."""
    given = {name: value for name, value in of_model(args).items() if value}
    return [
        word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value) if word is not True
    ]


def add_dtype(optional: ArgumentGroup, computed: str) -> None:
    """Declare the flag for the number format of what is `computed`."""
    optional.add_argument(
        "--dtype", choices=DTYPES, default="float32", help=f"number format of {computed} (default: float32)"
    )
