"""Peak memory and wall time of pruning, compared with one forward pass of the dense model in the same run.

    python benchmarks/prune_cost.py --model MODEL --calibration SOURCE --
        -m MODEL OUT --target-ratio 0.35 --calibration SOURCE

What follows `--` goes to `optimum-cli flab prune`. Its memory is the largest sum over its process tree (PSS: a page
shared by several processes counts once), sampled every 0.1 s. The forward pass runs in a separate process that has
ended before the pruning starts: logits included, same number of tokens, dtype, batch and threads; loading the model
and a short warm-up are not in its time, while the time of the pruning is the whole command, from start to exit.
`--again` times the forward pass once more afterwards and divides by the mean, in case the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from common import (
    count_parameters,
    flab_command,
    load_model,
    load_tokenizer,
    memory_peak,
    positive,
    print_result,
    read_texts,
)


def token_rows(tokenizer, texts: list[str], tokens: int, length: int) -> tuple[list[list[int]], int]:
    """Rows of `length` tokens, at most `tokens` in all, and how many of these tokens are no repetition.

    The texts stand one after the other, and from the start again where they are too short.
    """
    ids = [i for found in tokenizer(texts, add_special_tokens=False).input_ids for i in found]
    count = max(1, tokens // length)
    if not ids:
        raise SystemExit("the calibration texts hold no token")
    stream = ids * -(-count * length // len(ids))
    return [stream[i * length : (i + 1) * length] for i in range(count)], min(count * length, len(ids))


def time_forward(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of one forward pass of the dense model over the calibration tokens."""
    import torch

    texts = [text for source in args.calibration for text in read_texts(source)]
    rows, distinct = token_rows(load_tokenizer(args.model), texts, args.tokens, args.sequence_length)
    model = load_model(args.model, args.dtype)
    ids = torch.tensor(rows)
    with torch.inference_mode():
        model(input_ids=ids[:1, :64], use_cache=False)
        start = time.perf_counter()
        for batch in ids.split(args.batch_size):
            model(input_ids=batch, use_cache=False)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": ids.numel(),
        "distinct_tokens": distinct,
        "threads": torch.get_num_threads(),
        "parameters": count_parameters(model),
    }


def in_own_process(function, *arguments):
    """Runs a function in a process that has ended, and given its memory back, on return."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder of the dense model, for the forward pass")
    parser.add_argument(
        "--calibration",
        nargs="+",
        required=True,
        help="text of the forward pass: file.jsonl[column,column] or humaneval",
    )
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--limit", type=positive, help="at most N tokens in the forward pass, for a trial")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--again", action="store_true", help="time the forward pass after the pruning as well")
    parser.add_argument("prune", nargs="+", metavar="-- ARGUMENT", help="arguments of `optimum-cli flab prune`")
    args = parser.parse_args()
    args.tokens = min(args.tokens, args.limit or args.tokens)

    passes = [in_own_process(time_forward, args)]
    print(f"forward pass: {passes[0]['seconds']:.1f} s", file=sys.stderr, flush=True)
    command = flab_command("prune", *args.prune)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    with memory_peak(process.pid) as peak:
        status = process.wait()
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    if args.again:
        passes.append(in_own_process(time_forward, args))

    forward = sum(run["seconds"] for run in passes) / len(passes)
    float32_bytes = 4 * passes[0]["parameters"]
    print_result(
        "prune_cost",
        command=["optimum-cli", *command[1:]],
        wall_seconds=round(wall, 2),
        forward_seconds=[round(run["seconds"], 2) for run in passes],
        wall_to_forward=round(wall / forward, 3),
        peak_bytes=peak.bytes,
        peak_kind=peak.kind,
        float32_bytes=float32_bytes,
        peak_to_float32=round(peak.bytes / float32_bytes, 3),
        forward={key: passes[0][key] for key in ("tokens", "distinct_tokens", "threads")},
        settings={name: getattr(args, name) for name in ("batch_size", "sequence_length", "dtype")},
    )


if __name__ == "__main__":
    main()
