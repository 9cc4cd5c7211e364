"""What a pruned vocabulary removes and costs: parameters, bits per byte, corpus texts tokenised identically.

Meant for a checkpoint in which only the vocabulary was pruned; bits per byte are defined in `humaneval_text.py`. The
corpus is rebuilt from the pruned checkpoint's `flab_config.json` (run from the folder that the pruning ran in, if its
sources are relative paths) or from the sources named here, and its hash is looked up in the checkpoint's plan.
Documents of the sources that the pruning set aside for measuring are not part of the corpus: they are counted
separately.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from common import count_parameters, load_model, load_tokenizer, positive, print_result, progress, read_texts
from humaneval_text import load_checkpoint, measure, summary

from optimum_flab import FlabPrunerConfig
from optimum_flab.texts.reading import read_texts as read_sets
from optimum_flab.texts.sets import divide_texts
from optimum_flab.texts.sources import default_corpus, read_sources


CHARACTERS_AT_ONCE = 1 << 22


def batches(texts: list[str]) -> Iterator[list[str]]:
    """The texts in order, about `CHARACTERS_AT_ONCE` at a time: encodings take far more memory than their text."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of texts without the special tokens that a tokenizer adds."""
    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
    return [len(ids) for batch in batches(texts) for ids in encode(tokenizer, batch)]


def identical_pieces(dense_tokenizer, checkpoint, texts: list[str]) -> list[bool]:
    """For each text, whether the pruned tokenizer cuts it into the pieces of the dense one."""
    found: list[bool] = []
    for batch in batches(texts):
        pairs = zip(encode(dense_tokenizer, batch), encode(checkpoint.tokenizer, batch), strict=True)
        found += [dense == checkpoint.dense_ids(pruned) for dense, pruned in pairs]
        progress(len(found), len(texts), "corpus texts")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--pruned", required=True, help="checkpoint folder of the pruned model")
    parser.add_argument("--corpus", nargs="+", help="sources of the corpus, as the pruning was given them")
    parser.add_argument("--calibration", nargs="+", help="sources of calibration text, likewise")
    parser.add_argument("--held-out", nargs="+", help="sources of held-out text, likewise")
    parser.add_argument("--seed", type=int, help="seed of the pruning")
    parser.add_argument(
        "--texts", default="humaneval", help="texts for bits per byte: `humaneval`, or file.jsonl[column]"
    )
    parser.add_argument("--limit", type=positive, help="only the first N texts, and corpus texts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    if args.corpus or args.calibration:
        sources = {"corpus": args.corpus, "calibration": args.calibration, "held_out": args.held_out}
        config = FlabPrunerConfig(data={name: named for name, named in sources.items() if named})
    else:
        config = FlabPrunerConfig.from_yaml(Path(args.pruned) / "flab_config.json")
    tokenizer = load_tokenizer(args.dense)
    checkpoint = load_checkpoint(args.pruned, tokenizer, args.dtype, args.device)

    seed = config.seed if args.seed is None else args.seed
    read = read_sets(config.data, seed)
    sets = divide_texts(read, config.data, lambda texts: count_tokens(tokenizer, texts), seed)
    plan = Path(args.pruned) / "flab_plan.json"
    corpus = [document.text for document in sets.corpus]
    known = set(corpus)
    named = read_sources(config.data.corpus) if config.data.corpus else default_corpus()
    documents = [*named.documents, *read_sources(config.data.calibration).documents]
    aside = list(dict.fromkeys(document.text for document in documents if document.text not in known))
    corpus, aside = corpus[: args.limit], aside[: args.limit]
    in_corpus = identical_pieces(tokenizer, checkpoint, corpus)
    in_aside = identical_pieces(tokenizer, checkpoint, aside)

    texts = [text for text in read_texts(args.texts, args.limit) if text]
    dense = load_model(args.dense, args.dtype, args.device)
    cost = measure(dense, tokenizer, [checkpoint], texts)
    parameters = count_parameters(dense)
    print_result(
        "vocabulary_text",
        paths={"dense": args.dense, "pruned": args.pruned},
        source=args.texts,
        dense={"bits_per_byte": cost.bits_per_byte, "tokens": cost.tokens, "parameters": parameters},
        pruned=summary(checkpoint, cost, parameters, len(texts)),
        corpus={
            "texts": len(in_corpus),
            "identical": sum(in_corpus),
            "bytes": sum(len(text.encode("utf-8")) for text in corpus),
            "hash_in_plan": plan.is_file() and sets.corpus_hash in plan.read_text(encoding="utf-8"),
        },
        set_aside={"texts": len(in_aside), "identical": sum(in_aside)},
        settings={"dtype": args.dtype, "device": args.device, "data": config.data.model_dump(), "seed": seed},
    )


if __name__ == "__main__":
    main()
