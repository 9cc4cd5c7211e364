"""Fill-in-the-middle: how a model is shown what stands before and after the gap that it fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from transformers import PreTrainedTokenizerBase

from ..errors import ConfigurationError


# As their authors' model cards have them. `{prefix}` and `{suffix}` stand for the text around the gap; everything else
# are special tokens. Those that come first are looked for first.
KNOWN = (
    "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",  # Qwen2.5-Coder, CodeGemma
    "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",  # StarCoder, Granite, StableCode
    "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",  # SantaCoder
    "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",  # Seed-Coder
    "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",  # DeepSeek-Coder
    "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>",  # Code Llama
    "[SUFFIX]{suffix}[PREFIX]{prefix}",  # Codestral
)


@dataclass(frozen=True)
class InfillingFormat:
    """How a model is asked to fill a gap.

    Args:
        template (`str`): special tokens with `{prefix}` and `{suffix}` among them; the model writes on behind it.
    """

    template: str

    @classmethod
    def parse(cls, template: str) -> InfillingFormat:
        """Reads what a user wrote.

        Raises:
            [`ConfigurationError`]: it does not hold `{prefix}` and `{suffix}` once each, and nothing else in braces.
        """
        try:
            fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
        except ValueError:  # a brace that stands alone
            fields = []
        if sorted(fields) != ["prefix", "suffix"]:
            raise ConfigurationError(
                f"fim_format: {template!r} does not hold {{prefix}} and {{suffix}} once each; write it as {KNOWN[0]!r}"
            )
        return cls(template)

    @property
    def tokens(self) -> list[str]:
        """The special tokens, in their order."""
        return [text for text, *_ in Formatter().parse(self.template) if text]

    def ask(self, prefix: str, suffix: str) -> str:
        """The prompt for the text between a prefix and a suffix."""
        return self.template.format(prefix=prefix, suffix=suffix)


def infilling_format(tokenizer: PreTrainedTokenizerBase) -> InfillingFormat | None:
    """The known format whose special tokens a tokenizer all has; `None` where there is none."""
    return next((one for one in map(InfillingFormat, KNOWN) if not missing_tokens(tokenizer, one.tokens)), None)


def missing_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Those that are not one token of a tokenizer."""
    vocabulary = tokenizer.get_vocab()
    return [token for token in tokens if token not in vocabulary]
