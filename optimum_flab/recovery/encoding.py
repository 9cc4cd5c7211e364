"""Examples -> packed rows of tokens, with labels only on the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..measuring.divergence import predicting
from ..texts.formats import chat_text, turn_end
from ..texts.packing import PackedTokens, pack
from ..utils.errors import FlabError
from ..vocabulary.usage import special_ids
from .instructions import Example


IGNORED = -100
TOKENIZED_AT_ONCE = 1000


@dataclass(frozen=True)
class Encoded:
    """One example as tokens; `answers` is true for the tokens that contain a part of the answer, and for its end."""

    ids: list[int]
    answers: list[bool]

    def head(self, length: int) -> Encoded:
        """Its first tokens."""
        return Encoded(self.ids[:length], self.answers[:length])


@dataclass(frozen=True)
class Sequences:
    """Packed rows to train or measure on.

    Args:
        tokens ([`PackedTokens`]): no document of a row sees another.
        labels (`torch.LongTensor` of shape `(rows, length)`): at each position the next token if it belongs to an
            answer, else -100.
    """

    tokens: PackedTokens
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it, `(rows, length)` each: `input_ids`, `position_ids`, `mask` and `labels`."""
        return {**vars(self.tokens), "labels": self.labels}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Sequences:
        """The rows that consist of these [`tensors`]."""
        tokens = {name: tensor for name, tensor in tensors.items() if name != "labels"}
        return cls(PackedTokens(**tokens), tensors["labels"])

    def rows(self, chosen: Sequence[int]) -> Sequences:
        """Some of the rows."""
        index = torch.as_tensor(chosen, dtype=torch.long)
        return Sequences.of({name: tensor[index] for name, tensor in self.tensors.items()})

    def with_rows(self, others: Sequences) -> Sequences:
        """These rows and further ones of the same length."""
        more = others.tensors
        return Sequences.of({name: torch.cat([tensor, more[name]]) for name, tensor in self.tensors.items()})

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything in them."""
        digest = hashlib.sha256()
        for tensor in self.tensors.values():
            digest.update(f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


def uses_chat(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether instructions are formatted with the tokenizer's chat template.

    Raises:
        [`FlabError`]: that is requested, and there is none.
    """
    if template == "chat" and not tokenizer.chat_template:
        raise FlabError("recovery.template: 'chat', but the tokenizer has no chat template; use 'plain' or 'auto'")
    return template == "chat" or (template == "auto" and bool(tokenizer.chat_template))


def prompt_text(example: Example, tokenizer: PreTrainedTokenizerBase, chat: bool) -> str:
    """The text before an answer, special tokens of the chat template included; nothing of it is stripped or added,
    except one newline between an instruction and its answer if there is no chat template."""
    if example.continues:
        return example.prompt
    if not chat:
        return example.prompt + "\n"
    messages = [{"role": role, "content": text} for role, text in example.turns]
    try:
        return chat_text(tokenizer, messages, add_generation_prompt=True)
    except FlabError as error:
        raise FlabError(
            f"{example.place}: {error}; set recovery.template to 'plain', or leave the example out"
        ) from error


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool) -> list[Encoded]:
    """Tokens of prompt and answer as one text, tokenised as they will be when the text is read.

    A token that contains a part of both belongs to the answer. In a chat the end of the turn follows the answer, and
    in any case the end-of-sequence token.
    """
    closing = turn_end(tokenizer) if chat else ""
    prompts = [prompt_text(example, tokenizer, chat) for example in examples]
    texts = [
        prompt + example.answer + ("" if example.continues else closing)
        for prompt, example in zip(prompts, examples, strict=True)
    ]
    before, after = (list(ids) for ids in special_ids(tokenizer))
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if after[-1:] == end:
        end = []
    encoded = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        part = slice(start, start + TOKENIZED_AT_ONCE)
        encoding = tokenizer(texts[part], add_special_tokens=False, return_offsets_mapping=True)
        for ids, offsets, prompt, example in zip(
            encoding["input_ids"], encoding["offset_mapping"], prompts[part], examples[part], strict=True
        ):
            # a chat template writes the beginning-of-sequence token itself
            first = before if example.continues or not chat else []
            answers = [stop > len(prompt) for _, stop in offsets]
            tail = [*after, *([] if ids[-1:] == end else end)]
            encoded.append(Encoded([*first, *ids, *tail], [False] * len(first) + answers + [True] * len(tail)))
    return encoded


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Encoded]:
    """A plain text in chunks of at most `length` tokens, none of which is an answer."""
    before, after = (list(ids) for ids in special_ids(tokenizer))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    own = max(1, length - len(before) - len(after))
    pieces = [[*before, *ids[start : start + own], *after] for start in range(0, len(ids), own)]
    return [Encoded(piece, [False] * len(piece)) for piece in pieces]


def pack_examples(encoded: Sequence[Encoded], length: int, apart: bool) -> tuple[Sequences | None, int]:
    """Packs examples into rows, first fit in the given order, or each into its own row (`apart`); longer ones are left
    out.

    Returns:
        `tuple[Sequences | None, int]`: the rows (`None`: there are none), and how many examples were too long.
    """
    fitting = [example for example in encoded if len(example.ids) <= length]
    if not fitting:
        return None, len(encoded)
    tokens = pack([example.ids for example in fitting], length, 0, apart=apart)
    # the same lengths in the same order are packed alike
    flags = [[int(flag) for flag in example.answers] for example in fitting]
    answers = pack(flags, length, 0, apart=apart).input_ids.bool()
    wanted = predicting(tokens)
    wanted[:, :-1] &= answers[:, 1:]
    following = torch.zeros_like(tokens.input_ids)
    following[:, :-1] = tokens.input_ids[:, 1:]
    return Sequences(tokens, following.masked_fill(~wanted, IGNORED)), len(encoded) - len(fitting)


def split_rows(number: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows set aside, at least one each if there are two."""
    order = np.random.default_rng(seed).permutation(number).tolist()
    aside = min(max(1, round(number * share)), number - 1)
    return order[aside:], sorted(order[:aside])


def schedule(rows: int, steps: int, batch_size: int, seed: int) -> list[int]:
    """The row at every place of every batch: pass after pass over all rows, each in a different order.

    Fixed beforehand, so that it is the same for one process and for many, and after an interruption.
    """
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += generator.permutation(rows).tolist()
    return order[: steps * batch_size]
