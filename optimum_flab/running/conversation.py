"""A conversation with a model, whose answers arrive as they are written."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer

from ..families import Family
from ..families.positions import check_positions
from ..texts.formats import template_faults
from .generation import check_predictions, end_ids, padding_id, with_generation_config


class Conversation:
    """What a user and a model said, and how the model goes on. A model without a chat template answers nothing: it
    continues each text by itself.

    Args:
        model (`PreTrainedModel`): with its weights in memory.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        family ([`~families.Family`]): its family.
        max_new_tokens (`int`): of an answer, at most.
        temperature (`float`): of sampling; 0: always the likeliest token.
        raw (`bool`): continue texts even though there is a chat template.

    Attributes:
        continues (`bool`): whether texts are continued rather than answered.
        turns (`list[dict[str, str]]`): what was said, in the form that chat templates read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        family: Family,
        max_new_tokens: int,
        temperature: float = 0.0,
        raw: bool = False,
    ):
        self._model = model
        self._tokenizer = tokenizer
        self._family = family
        ends = end_ids(model, tokenizer)
        self._config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=padding_id(tokenizer, ends),
            do_sample=temperature > 0,
            **({"temperature": temperature} if temperature else {}),
        )
        self.continues = raw or not tokenizer.chat_template
        self.turns: list[dict[str, str]] = []

    def answer(self, text: str) -> Generator[str, None, None]:
        """The pieces of the answer to a text, or of the text and what the model writes behind it. Closing the iterator
        ends the answer; what was said until then is remembered.

        Raises:
            [`FlabError`]: the model produces NaN or infinite values.
            [`ConfigurationError`]: the conversation has become too long for the model.
            [`FlabError`]: the chat template refuses it.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        if not self.continues:
            with template_faults("; `raw` continues texts without it"):
                text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # a chat template writes the special tokens itself
        ids = self._tokenizer(text, add_special_tokens=self.continues)["input_ids"]
        needed = len(ids) + self._config.max_new_tokens
        check_positions(self._model.config, self._family, "conversation and answer", needed)
        if not self.turns:
            check_predictions(self._model, ids)
        streamer = TextIteratorStreamer(
            self._tokenizer,
            skip_prompt=not self.continues,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        said, closed = "", Event()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write, ids, streamer, closed)
            try:
                for piece in streamer:
                    said += piece
                    yield piece
            finally:
                closed.set()
                if not self.continues:
                    self.turns = [*turns, {"role": "assistant", "content": said}]
            writing.result()

    def _write(self, ids: list[int], streamer: TextIteratorStreamer, closed: Event) -> None:
        prompt = torch.tensor([ids], device=self._model.device)
        try:
            with with_generation_config(self._model, self._config):
                self._model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=self._config,
                    stopping_criteria=[lambda ids, scores: torch.full((1,), closed.is_set(), device=ids.device)],
                    streamer=streamer,
                )
        finally:
            streamer.end()  # whoever reads it must not wait for more
