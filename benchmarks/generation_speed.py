"""Wall time of greedy HumanEval completions through the evaluation's model, compared with a bare loop over
model.generate.

Both get the same batches (by length, padded on the left), dtype, limit of new tokens and stopping criterion,
alternately, so that a machine that slows down slows both. The evaluation is `FlabLM.generate_until` with an empty
cache that it writes to: encoding, decoding, truncating and storing are included. Model loading is not included in
either.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import humaneval_problems, load_model, load_tokenizer, positive, print_result, progress


def bare_completions(model, tokenizer, prompts: list[str], stops: list[str], max_new_tokens: int) -> list[str]:
    """Greedy completions of one batch by model.generate, cut at the stop strings."""
    import torch
    from transformers import GenerationConfig

    from optimum_flab.running.generation import HasStopString, truncate_at

    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    start = inputs.input_ids.shape[1]
    own = model.generation_config
    # generate() fills what the settings leave open from the model's own
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                stopping_criteria=[HasStopString(tokenizer, stops, start)],
            )
    finally:
        model.generation_config = own
    texts = tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)
    return [truncate_at(text, stops) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--limit", type=positive, help="only the first N problems")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    from lm_eval.api.instance import Instance
    from lm_eval.tasks._yaml_loader import load_yaml

    from optimum_flab.evaluation.catalog import TASKS_FOLDER
    from optimum_flab.evaluation.lm import FlabLM
    from optimum_flab.running.generation import BatchCache

    settings = load_yaml(TASKS_FOLDER / "humaneval.yaml")["generation_kwargs"]
    model, tokenizer = load_model(args.model, args.dtype, args.device), load_tokenizer(args.model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    requests = [
        Instance("generate_until", {}, (problem["prompt"], settings), 0, ("humaneval", number, 1))
        for number, problem in enumerate(humaneval_problems(args.limit))
    ]
    seconds = {"evaluation": 0.0, "bare": 0.0}
    different = 0
    with tempfile.TemporaryDirectory() as cache:
        lm = FlabLM(
            model,
            tokenizer,
            weights_hash="benchmark",
            cache=BatchCache(Path(cache)),
            batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens,
        )
        batches = lm.generation_batches(requests)
        bare_completions(model, tokenizer, [requests[0].args[0]], settings["until"], 4)  # warm up
        for number, batch in enumerate(batches, start=1):
            chosen = [requests[index] for index in batch.indices]
            sides = {
                "evaluation": lambda chosen=chosen: lm.generate_until(chosen),
                "bare": lambda chosen=chosen: bare_completions(
                    model, tokenizer, [request.args[0] for request in chosen], settings["until"], args.max_new_tokens
                ),
            }
            found = {}
            for name in sorted(sides, reverse=bool(number % 2)):
                start = time.perf_counter()
                found[name] = sides[name]()
                seconds[name] += time.perf_counter() - start
            different += sum(a != b for a, b in zip(found["evaluation"], found["bare"], strict=True))
            progress(number, len(batches), "batches")
        assert lm.cache.reused == 0

    print_result(
        "generation_speed",
        model=args.model,
        problems=len(requests),
        evaluation_seconds=round(seconds["evaluation"], 2),
        bare_seconds=round(seconds["bare"], 2),
        ratio=round(seconds["evaluation"] / seconds["bare"], 4),
        different_completions=different,
        settings={name: getattr(args, name) for name in ("max_new_tokens", "batch_size", "dtype", "device")},
    )


if __name__ == "__main__":
    main()
