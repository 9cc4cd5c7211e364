"""The depth search compared with the plain greedy one, which runs the whole model for every candidate.

    python benchmarks/depth_search.py --model DENSE --kept OUT --remove 4

Both remove one layer after the other, each time the one whose absence changes the next-token distributions least
(arXiv 2412.15921), on the same tokens of the standard library's source. The plain one compares the distributions over
the whole vocabulary, in float32; ours those over the tokens that OUT keeps, with the optimisations available on this
machine.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice

import numpy as np
import torch
from common import kept_tokens, load_model, load_tokenizer, print_result, progress
from torch import nn

from optimum_flab.criteria import LAYERS
from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import predicting
from optimum_flab.pruning.components.layers import ranked_layers
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.texts.packing import PackedTokens, pack


def sample(tokenizer, tokens: int, length: int) -> PackedTokens:
    """Source of the standard library in rows."""
    source = open(argparse.__file__, encoding="utf-8").read()
    ids = tokenizer(source, add_special_tokens=False).input_ids[:tokens]
    return pack([ids[start : start + length] for start in range(0, len(ids), length)], length, 0)


@torch.no_grad()
def plain_greedy(model, family, tokens: PackedTokens, number: int) -> list[int]:
    """The layers that go by whole forward passes."""
    layers, mask = family.decoder_layers(model), predicting(tokens)
    path, _, name = family.modules.layers.rpartition(".")
    parent = model.get_submodule(path)

    def scores(kept: list[int]) -> torch.Tensor:
        setattr(parent, name, nn.ModuleList(layers[index] for index in kept))
        logits = model(**tokens.model_inputs(model.device)).logits[mask]
        return torch.log_softmax(logits.float(), dim=-1)

    remaining, removed = list(range(len(layers))), []
    dense = scores(remaining)
    for done in range(number):
        divergences = {}
        for layer in remaining:
            other = scores([index for index in remaining if index != layer])
            divergences[layer] = float((dense.exp() * (dense - other)).sum(dim=-1).mean())
        removed.append(min(divergences, key=divergences.__getitem__))
        remaining.remove(removed[-1])
        progress(done + 1, number, "plain")
    setattr(parent, name, layers)
    return removed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--kept", required=True, help="a pruned one, whose vocabulary ours looks at")
    parser.add_argument("--remove", type=int, default=4, help="layers (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=1024, help="of text (default: %(default)s)")
    args = parser.parse_args()
    model = load_model(args.model, "float32")
    family, tokens = family_for(model.config), sample(load_tokenizer(args.model), args.tokens, 512)
    start = time.perf_counter()
    kept = np.array(kept_tokens(args.kept))
    order = ranked_layers(LayerPass(model, family, tokens, 8), LAYERS["divergence"], kept)
    ours = [removal.layer for removal in islice(order, args.remove)]
    middle = time.perf_counter()
    plain = plain_greedy(model, family, tokens, args.remove)
    seconds = {"ours": middle - start, "plain": time.perf_counter() - middle}
    print_result("depth_search", layers={"ours": ours, "plain": plain}, seconds=seconds, settings=vars(args))


if __name__ == "__main__":
    main()
