"""What trimming a file costs: seconds and memory of the whole command, against copying it; and what a kill leaves.

`--enlarge GB` first makes a larger file of the model: its tensors again and again, under other names.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np


COMMAND = [sys.executable, "-c", "from optimum.commands.optimum_cli import main; main()", "flab", "trim"]


def measured(command: list[str]) -> tuple[int, float, int]:
    """Exit status, seconds, and the largest memory of a command in bytes."""
    start = time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = run.stderr.read().decode() if run.stderr else ""
    _, status, usage = os.wait4(run.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        print(said[-500:], file=sys.stderr)
    return code, time.perf_counter() - start, usage.ru_maxrss * 1024


def enlarge(path: Path, gigabytes: float, target: Path) -> None:
    """Writes the file with more tensors of random bytes, until it is so large."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.n_bytes, tensor.tensor_type)
    more, each = int(gigabytes * 1e9 - path.stat().st_size) // (1 << 26), (1 << 24,)
    for number in range(more):
        writer.add_tensor_info(f"blk.{number}.more.weight", each, np.dtype(np.float32), 1 << 26)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(np.asarray(tensor.data))
    noise = np.random.default_rng(0)
    for _ in range(more):
        writer.write_tensor_data(noise.integers(0, 256, 1 << 26, dtype=np.uint8).view(np.float32))
    writer.close()


def killed(model: Path, out: Path, seconds: float, number: int) -> dict[str, int]:
    """How often a run that was killed left nothing, all of the output, or something else."""
    found = {"nothing": 0, "all": 0, "something else": 0}
    moments = random.Random(0)
    for _ in range(number):
        shutil.rmtree(out, ignore_errors=True)
        run = subprocess.Popen(
            [*COMMAND, "-m", str(model), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0, seconds))
        run.send_signal(signal.SIGKILL)
        run.wait()
        names = {path.name for path in out.iterdir()} - {".flab-output"} if out.exists() else set()
        whole = {"flab_trim.json", "flab_plan.json", "README.md"} <= names
        found["nothing" if not names else "all" if whole else "something else"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--enlarge", type=float, metavar="GB", help="make the file so large first (default: do not)")
    parser.add_argument("--kills", type=int, default=0, help="runs that are killed at random moments (default: 0)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        path, out, copy = model, args.work / "out", args.work / "copy"
        if args.enlarge:
            path = args.work / f"large-{model.name}"
            if not path.exists():
                enlarge(model, args.enlarge, path)
        rows = []
        for _ in range(args.runs):
            copied = measured(["cp", str(path), str(copy)])
            copy.unlink()
            shutil.rmtree(out, ignore_errors=True)
            rows.append((measured([*COMMAND, "-m", str(path), str(out)]), copied))
        report = json.loads((out / "flab_trim.json").read_text())
        seconds = sorted(row[0][1] for row in rows)
        result = {
            "model": path.name,
            "megabytes": [report["bytes_before"] / 1e6, report["bytes_after"] / 1e6],
            "tokens": [report["tokens_before"], report["tokens_after"]],
            "status": [row[0][0] for row in rows],
            "seconds": seconds,
            "copy_seconds": sorted(row[1][1] for row in rows),
            "peak_bytes": max(row[0][2] for row in rows),
        }
        if args.kills:
            result["killed"] = killed(path, out, seconds[-1], args.kills)
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
