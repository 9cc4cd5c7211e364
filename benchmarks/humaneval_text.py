"""Divergence and bits per byte of a pruned checkpoint on HumanEval text (or any other texts), against the dense model.

Divergence: both models read the pruned tokenizer's tokens (as dense ids on the dense side). KL(dense ‖ pruned) of the
next token's distribution, in nats, the dense one renormalised on the kept vocabulary, summed over all predicted tokens
of all texts and divided by their count. Rows that only pad the pruned vocabulary count as lost probability.

Bits per byte: -log2 of the probability that a model gives to the tokens of its own tokenizer, divided by the UTF-8
bytes of the text.

In a text of n tokens, positions 0 to n - 2 predict tokens 1 to n - 1. No token is added that the tokenizer does not
add by itself, so the first token of a text is predicted only if the tokenizer puts a beginning-of-sequence before it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from common import (
    count_parameters,
    kept_tokens,
    load_model,
    load_tokenizer,
    positive,
    print_result,
    progress,
    read_texts,
)


LOGITS_AT_ONCE = 1 << 24  # numbers in one block of logits: bounds the memory with a large vocabulary


@dataclass
class Cost:
    """Sums over texts; `nats` is the model's own cost of its own tokens."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0

    @property
    def bits_per_byte(self) -> float:
        return self.nats / 0.6931471805599453 / self.bytes


@dataclass
class Checkpoint:
    """A pruned checkpoint under measurement."""

    model: Any
    tokenizer: Any
    kept: Any  # LongTensor of dense ids by pruned id, None where they are the same
    cost: Cost = field(default_factory=Cost)
    divergence: float = 0.0
    mass_lost: float = 0.0
    same_pieces: int = 0

    def dense_ids(self, ids: list[int]) -> list[int]:
        return ids if self.kept is None else self.kept[ids].tolist()


def load_checkpoint(path: str, dense_tokenizer, dtype: str, device: str) -> Checkpoint:
    """Loads a pruned checkpoint and checks that its ids name the pieces its plan says they do."""
    import torch

    model = load_model(path, dtype, device)
    tokenizer = load_tokenizer(path)
    kept = kept_tokens(path)
    size = model.config.vocab_size
    ids = range(min(size, len(tokenizer))) if kept is None else kept
    if len(ids) > size:
        raise SystemExit(f"{path}: the plan keeps {len(ids)} tokens, the model has {size}")
    # a dense vocabulary can have rows that its tokenizer does not know: they have no piece on either side
    named = [i for i, dense in enumerate(ids) if dense < len(dense_tokenizer) and i < len(tokenizer)]
    expected = dense_tokenizer.convert_ids_to_tokens([ids[i] for i in named])
    found = tokenizer.convert_ids_to_tokens(named)
    for i, wanted, piece in zip(named, expected, found, strict=True):
        if piece != wanted:
            raise SystemExit(f"{path}: id {i} is {piece!r}, but the plan says dense id {ids[i]}, which is {wanted!r}")
    return Checkpoint(model, tokenizer, None if kept is None else torch.tensor(kept, device=device))


def hidden_states(model, ids):
    """Last hidden states of one text as the output head takes them: (tokens, hidden)."""
    return model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]


def logits(model, hidden):
    """Logits of some positions, in float32: (positions, vocabulary)."""
    found = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return found if cap is None else (found / cap).tanh() * cap


def check_logits(model, ids) -> None:
    """Refuses a model whose forward pass does more to its logits than `logits` knows."""
    import torch

    expected = model(input_ids=ids[None], use_cache=False, logits_to_keep=1).logits[0].float()
    found = logits(model, hidden_states(model, ids)[-1:])
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise SystemExit(f"{type(model).__name__} changes its logits in a way that this benchmark does not know")


def kl_divergence(dense_log, pruned_log, kept) -> tuple[float, float]:
    """Sums over positions.

    Args:
        dense_log: log-probabilities of the dense model, (positions, dense vocabulary).
        pruned_log: log-probabilities of the pruned model, (positions, pruned vocabulary); may end in rows of padding.
        kept: dense id of each pruned id; None where they are the same.

    Returns:
        Sum of KL(dense on the kept vocabulary ‖ pruned) in nats, and sum of the dense probability outside of it.
    """
    if kept is None and dense_log.shape == pruned_log.shape:
        return float(((dense_log - pruned_log) * dense_log.exp()).sum(-1).double().sum()), 0.0
    dense_kept = dense_log[:, : pruned_log.shape[1]] if kept is None else dense_log[:, kept]
    inside = dense_kept.logsumexp(-1, keepdim=True)
    dense_kept = dense_kept - inside
    terms = (dense_kept - pruned_log[:, : dense_kept.shape[1]]).mul_(dense_kept.exp())
    return float(terms.sum(-1).double().sum()), float((-inside.double().expm1()).clamp(min=0).sum())


def add_text(text: str, dense, dense_tokenizer, dense_cost: Cost, checkpoints: list[Checkpoint]) -> None:
    """Adds one text to the sums of the dense model and of every checkpoint.

    The dense model reads each distinct sequence of ids once: its own, and the pieces of each checkpoint.
    """
    import torch

    device = dense.device
    own = tuple(dense_tokenizer(text).input_ids)
    sequences: dict[tuple[int, ...], list[tuple[Checkpoint, Any, Any]]] = {own: []}
    for checkpoint in checkpoints:
        ids = checkpoint.tokenizer(text).input_ids
        as_dense = tuple(checkpoint.dense_ids(ids))
        checkpoint.same_pieces += as_dense == own
        ids = torch.tensor(ids, device=device)
        sequences.setdefault(as_dense, []).append((checkpoint, ids, hidden_states(checkpoint.model, ids)))
    for sequence, readers in sequences.items():
        ids = torch.tensor(sequence, device=device)
        states = hidden_states(dense, ids)
        step = max(1, LOGITS_AT_ONCE // dense.config.vocab_size)
        for start in range(0, len(ids) - 1, step):
            end = min(start + step, len(ids) - 1)
            dense_log = logits(dense, states[start:end]).log_softmax(-1)
            if sequence == own:
                targets = ids[start + 1 : end + 1, None]
                dense_cost.nats -= float(dense_log.gather(1, targets).double().sum())
            for checkpoint, pruned_ids, pruned_states in readers:
                pruned_log = logits(checkpoint.model, pruned_states[start:end]).log_softmax(-1)
                targets = pruned_ids[start + 1 : end + 1, None]
                checkpoint.cost.nats -= float(pruned_log.gather(1, targets).double().sum())
                divergence, lost = kl_divergence(dense_log, pruned_log, checkpoint.kept)
                checkpoint.divergence += divergence
                checkpoint.mass_lost += lost
        for checkpoint, _, _ in readers:
            checkpoint.cost.tokens += len(ids) - 1
    size = len(text.encode("utf-8"))
    dense_cost.tokens += len(own) - 1
    for cost in (dense_cost, *(checkpoint.cost for checkpoint in checkpoints)):
        cost.bytes += size


def measure(dense, dense_tokenizer, checkpoints: list[Checkpoint], texts: list[str]) -> Cost:
    """Reads all the texts; fills the sums of the checkpoints and returns those of the dense model."""
    import torch

    cost = Cost()
    with torch.inference_mode():
        for tokenizer, model in [(dense_tokenizer, dense), *((c.tokenizer, c.model) for c in checkpoints)]:
            check_logits(model, torch.tensor(tokenizer(texts[0]).input_ids, device=model.device))
        for i, text in enumerate(texts, 1):
            add_text(text, dense, dense_tokenizer, cost, checkpoints)
            progress(i, len(texts), "texts")
    return cost


def summary(checkpoint: Checkpoint, dense_cost: Cost, dense_parameters: int, texts: int) -> dict[str, float]:
    """The figures of one checkpoint."""
    parameters = count_parameters(checkpoint.model)
    return {
        "divergence": checkpoint.divergence / checkpoint.cost.tokens,
        "mass_lost": checkpoint.mass_lost / checkpoint.cost.tokens,
        "bits_per_byte": checkpoint.cost.bits_per_byte,
        "bits_per_byte_ratio": checkpoint.cost.bits_per_byte / dense_cost.bits_per_byte,
        "tokens": checkpoint.cost.tokens,
        "texts_in_identical_pieces": checkpoint.same_pieces,
        "texts": texts,
        "parameters": parameters,
        "parameters_removed": 1 - parameters / dense_parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", required=True, help="checkpoint folder of the dense model")
    parser.add_argument("--pruned", required=True, help="checkpoint folder of the pruned model")
    parser.add_argument("--reference", help="a second pruned checkpoint, such as the same shape by other criteria")
    parser.add_argument("--texts", default="humaneval", help="`humaneval`, or file.jsonl[column,column]")
    parser.add_argument("--limit", type=positive, help="only the first N texts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    texts = [text for text in read_texts(args.texts, args.limit) if text]
    dense, tokenizer = load_model(args.dense, args.dtype, args.device), load_tokenizer(args.dense)
    paths = {"pruned": args.pruned, **({"reference": args.reference} if args.reference else {})}
    checkpoints = {name: load_checkpoint(path, tokenizer, args.dtype, args.device) for name, path in paths.items()}
    cost = measure(dense, tokenizer, list(checkpoints.values()), texts)
    parameters = count_parameters(dense)
    values = {name: summary(checkpoint, cost, parameters, len(texts)) for name, checkpoint in checkpoints.items()}
    if args.reference:
        of_reference = values["reference"]["divergence"]
        values["divergence_to_reference"] = values["pruned"]["divergence"] / of_reference if of_reference else None
    print_result(
        "humaneval_text",
        paths={"dense": args.dense, **paths},
        source=args.texts,
        bytes=cost.bytes,
        dense={"bits_per_byte": cost.bits_per_byte, "tokens": cost.tokens, "parameters": parameters},
        **values,
        settings={"dtype": args.dtype, "device": args.device},
    )


if __name__ == "__main__":
    main()
