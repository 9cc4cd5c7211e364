"""Fill-in-the-middle: how a model is shown what precedes and what follows the gap that it fills."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import Formatter
from typing import TYPE_CHECKING

from ..utils.errors import ConfigurationError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# As in their authors' model cards. `{prefix}` and `{suffix}` stand for the text around the gap; everything else is
# special tokens. Those that come first are looked for first.
KNOWN = (
    "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",  # Qwen2.5-Coder, CodeGemma
    "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",  # StarCoder, Granite, StableCode
    "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",  # SantaCoder
    "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",  # Seed-Coder
    "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",  # DeepSeek-Coder
    "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>",  # Code Llama
    "[SUFFIX]{suffix}[PREFIX]{prefix}",  # Codestral
)
# what models write after the text of a gap, besides special tokens: not every tokenizer calls these special
ENDS = (
    *("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<|endoftext|>", "<|cursor|>"),
    *("<fim_pad>", "<file_sep>", "<fim-pad>", "<|EOT|>", "<EOT>", "▁<EOT>"),
)
EXAMPLE = KNOWN[0]


@dataclass(frozen=True)
class InfillingFormat:
    """How a model is asked to fill a gap.

    Args:
        template (`str`): special tokens with `{prefix}` and `{suffix}` among them; the model continues after it.
    """

    template: str

    @classmethod
    def parse(cls, template: str) -> InfillingFormat:
        """Reads what a user wrote.

        Raises:
            [`ConfigurationError`]: it does not hold `{prefix}` and `{suffix}` once each, with something between them,
                and nothing else in braces.
        """
        try:
            parts = list(Formatter().parse(template))
        except ValueError:  # an unmatched brace
            parts = []
        fields = [(field, spec, conversion) for _, field, spec, conversion in parts if field is not None]
        if sorted(fields) != [("prefix", "", None), ("suffix", "", None)] or "}{" in template:
            raise ConfigurationError(
                f"fim_format: {template!r} does not hold {{prefix}} and {{suffix}} once each, with special tokens"
                f" around them; write it as {EXAMPLE!r}"
            )
        return cls(template)

    @property
    def marks(self) -> list[str]:
        """What surrounds prefix and suffix, in order: one special token each, or several."""
        return [text for text, *_ in Formatter().parse(self.template) if text]

    def mark_ids(self, tokenizer: PreTrainedTokenizerBase) -> set[int]:
        """The ids of the tokens of [`marks`]."""
        return {token for mark in self.marks for token in tokenizer.encode(mark, add_special_tokens=False)}

    def ask(self, prefix: str, suffix: str) -> str:
        """The prompt for the text between a prefix and a suffix."""
        return self.template.format(prefix=prefix, suffix=suffix)

    def shortened(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], room: int) -> list[int]:
        """A prompt that fits: the beginning of its prefix and the end of its suffix are dropped, starting with the
        longer of the two.

        Args:
            ids (`Sequence[int]`): the prompt of [`ask`], perhaps with tokens before it.
            room (`int`): how many tokens there may be.
        """
        ends = [0]  # boundaries between what is taken unchanged and the two texts
        for mark in self.marks:
            pieces = tokenizer.encode(mark, add_special_tokens=False)
            at = _place(ids, pieces, ends[-1])
            ends += [at, at + len(pieces)]
        ends.append(len(ids))
        parts = [list(ids[start:end]) for start, end in pairwise(ends)]
        # parts with even numbers are texts; the first of them is what the tokenizer puts before the prompt
        first = 2 if self.template.startswith(self.marks[0]) else 0
        fields = [field for _, field, *_ in Formatter().parse(self.template) if field is not None]
        texts = {field: first + 2 * number for number, field in enumerate(fields)}
        before, after = (parts[texts[name]] for name in ("prefix", "suffix"))
        left = max(0, room - (len(ids) - len(before) - len(after)))
        kept = min(len(after), max(left // 2, left - len(before)))
        parts[texts["suffix"]] = after[:kept]
        parts[texts["prefix"]] = before[max(0, len(before) - (left - kept)) :]
        return [token for part in parts for token in part]


def _place(ids: Sequence[int], pieces: Sequence[int], start: int) -> int:
    """Where a sequence of tokens first occurs."""
    return next(at for at in range(start, len(ids)) if list(ids[at : at + len(pieces)]) == list(pieces))


def infilling_format(tokenizer: PreTrainedTokenizerBase) -> InfillingFormat | None:
    """The known format whose special tokens a tokenizer has, all of them; `None` where there is none."""
    return next((one for one in map(InfillingFormat, KNOWN) if not missing_tokens(tokenizer, one.marks)), None)


def gap_tokens(vocabulary: Collection[str]) -> list[str]:
    """The special tokens of the known formats that a vocabulary covers whole, whatever its tokenizer makes of them."""
    whole = [one.marks for one in map(InfillingFormat, KNOWN) if all(mark in vocabulary for mark in one.marks)]
    return [mark for marks in whole for mark in marks]


def missing_tokens(tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]) -> list[str]:
    """Those that a tokenizer does not read as special tokens wherever they occur in a text."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return [mark for mark in marks if not _is_special(tokenizer, mark, added)]


def _is_special(tokenizer: PreTrainedTokenizerBase, mark: str, added: Sequence[str]) -> bool:
    ids, rest = [], mark
    while rest:
        token = next((token for token in added if token and rest.startswith(token)), None)
        if token is None:
            return False
        ids.append(tokenizer.convert_tokens_to_ids(token))
        rest = rest[len(token) :]
    pieces = tokenizer.encode(f"x{mark}x", add_special_tokens=False)
    return any(pieces[at : at + len(ids)] == ids for at in range(len(pieces)))


def ends_of_gap(tokenizer: PreTrainedTokenizerBase, template: InfillingFormat) -> list[int]:
    """The ids of the tokens after which nothing belongs to a gap, ascending: the special ones, those of the format,
    and others with which models are known to end."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    vocabulary = tokenizer.get_vocab()
    return sorted(
        special | template.mark_ids(tokenizer) | {vocabulary[token] for token in ENDS if token in vocabulary}
    )
