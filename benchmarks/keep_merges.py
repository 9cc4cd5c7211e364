"""What each number of first merges kept costs and saves: chooses the default of `keep_merges`.

The corpus is only the Python standard library; the texts are different ones, from instruction data, so that the
measured text does not occur in the corpus. Prints one JSON line with, for every number of merges, the natural size,
its share of all parameters, and the tokens and bits per byte of the texts relative to dense, with only the vocabulary
pruned.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from common import positive, print_result
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import OutputHead, bits_and_lost_mass, final_hidden
from optimum_flab.pruning.components import sizes_of
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.texts.packing import pack
from optimum_flab.texts.sources import default_corpus, read_source
from optimum_flab.vocabulary.closure import config_token_ids, natural_vocabulary, read_spec
from optimum_flab.vocabulary.rewrite import rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens


def bits(model, architecture, token_lists: list[np.ndarray], kept: np.ndarray | None) -> float:
    """Bits of texts given as dense ids, the distribution renormalised on the kept ids as a pruned model's is."""
    tokens = pack([ids.tolist() for ids in token_lists], 512, 0)
    hidden = final_hidden(LayerPass(model, architecture, tokens, 8))
    if kept is None:
        return float(bits_and_lost_mass(hidden, OutputHead(model, architecture), tokens)[0].sum())
    new = {int(old): position for position, old in enumerate(kept)}
    renumbered = pack([[new[i] for i in ids.tolist()] for ids in token_lists], 512, 0)
    head = OutputHead(model, architecture, kept.tolist())
    return float(bits_and_lost_mass(hidden, head, renumbered)[0].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--texts", required=True, help="source of texts, columns in brackets")
    parser.add_argument("--merges", type=int, nargs="+", default=[0, 5000, 10000, 15000, 20000, 30000])
    parser.add_argument("--limit", type=positive, default=150, help="number of texts, evenly spread")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval().requires_grad_(False)
    architecture = family_for(model.config)
    sizes = sizes_of(model, architecture)
    shape = sizes.shape
    documents = read_source(args.texts).documents
    texts = [document.text for document in documents[:: max(1, len(documents) // args.limit)]]
    size = sum(len(text.encode()) for text in texts)
    dense_ids = [np.array(tokenizer(text)["input_ids"]) for text in texts]
    dense_bits = bits(model, architecture, dense_ids, None)

    spec = read_spec(tokenizer)
    usage = count_tokens(tokenizer, [document.text for document in default_corpus().documents])
    required = config_token_ids(model.config, model.generation_config)
    rows = {}
    for merges in args.merges:
        kept = natural_vocabulary(spec, usage.counts, 1, merges, (), required).kept
        new = rewrite_tokenizer(tokenizer, kept)
        ids = [kept[np.array(new(text)["input_ids"])] for text in texts]
        rows[merges] = {
            "vocab_size": len(kept),
            "parameters_removed": 1 - sizes.counts.total(shape.resized(vocab=len(kept))) / sizes.counts.total(shape),
            "tokens_ratio": sum(map(len, ids)) / sum(map(len, dense_ids)),
            "bits_per_byte_ratio": bits(model, architecture, ids, kept) / dense_bits,
        }
        print(merges, rows[merges], file=sys.stderr, flush=True)
    print_result("keep_merges", model=args.model, texts=len(texts), dense_bits_per_byte=dense_bits / size, merges=rows)


if __name__ == "__main__":
    main()
