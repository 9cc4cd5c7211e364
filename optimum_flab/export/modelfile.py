"""A Modelfile, by which Ollama shows a model its prompts as transformers would, and stops where it does."""

from __future__ import annotations

from collections.abc import Callable

from ..checkpoints.loading import LoadedModel
from ..running.generation import end_ids
from ..texts.formats import Turn, formats_of
from ..vocabulary.infilling import infilling_format


MOST_CONTEXT = 8192  # tokens; the keys and values of more take much memory
# Ollama's names of generation settings
SAMPLING = {name: name for name in ("temperature", "top_k", "top_p", "min_p")} | {
    "repetition_penalty": "repeat_penalty"
}
BY_ITSELF = "{{ .Prompt }}"  # for models without conversations


def modelfile(model: LoadedModel, file: str) -> str:
    """The content of a Modelfile.

    Args:
        file (`str`): the name of the GGUF file, in the same folder.
    """
    tokenizer, generation = model.tokenizer, model.model.generation_config
    lines = [f"FROM ./{file}"]
    chat = formats_of(tokenizer).chat
    template, system = (None, "") if chat is None else chat_template(chat)
    if not tokenizer.chat_template:
        template = BY_ITSELF
    if template is None:
        lines.append("# The chat template is not of a kind that can be written here; Ollama may know it.")
    else:
        if (gap := infilling_format(tokenizer)) is not None:
            asked = gap.ask("{{ .Prompt }}", "{{ .Suffix }}")
            template = f"{{{{ if .Suffix }}}}{asked}{{{{ else }}}}{template}{{{{ end }}}}"
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f'SYSTEM """{system}"""'] * bool(system)
    ends = tokenizer.convert_ids_to_tokens(end_ids(model.model, tokenizer))
    lines += [f'PARAMETER stop "{end}"' for end in ends if end is not None]
    lines.append(f"PARAMETER num_ctx {min(model.model.config.max_position_embeddings, MOST_CONTEXT)}")
    values: dict[str, float | None] = {"temperature": 0}
    if generation is not None and generation.do_sample:
        values = {theirs: getattr(generation, name, None) for name, theirs in SAMPLING.items()}
    lines += [f"PARAMETER {name} {value:g}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def chat_template(chat: Callable[[list[Turn]], str | None]) -> tuple[str | None, str]:
    """What a chat template does, as Ollama writes it; and the system prompt that it takes where there is none. `None`
    if it does not write each turn in one way, whatever comes before.

    It is read off three conversations, so that no format has to be known.

    Args:
        chat (`Callable`): returns the text of a conversation, or `None`.
    """
    asked = "one question"
    answered = "one answer"
    again = "another question"
    told = "one instruction"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    alone = _between(chat(turns), asked, answered)
    longer = _between(chat([*turns, {"role": "user", "content": again}, turns[1]]), asked, answered, again, answered)
    instructed = _between(chat([{"role": "system", "content": told}, *turns]), told, asked, answered)
    if alone is None or longer is None:
        return None, ""
    first, before_answer, end = alone
    opening = longer[2].removeprefix(end)
    is_uniform = longer == [first, before_answer, end + opening, before_answer, end]
    if not is_uniform or any(mark in "".join(longer) for mark in ("{{", '"""')):
        return None, ""
    question = opening
    system = ""
    if instructed is not None and instructed[2:] == alone[1:]:
        before, after = instructed[:2]
        question = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{opening}{{{{ end }}}}"
        if first.startswith(before) and first.endswith(after):
            system = first[len(before) : len(first) - len(after)]
    return f"{question}{{{{ .Prompt }}}}{before_answer}{{{{ .Response }}}}{end}", system


def _between(text: str | None, *contents: str) -> list[str] | None:
    """What stands before, between and after some parts of a text; `None` where one is missing."""
    parts = []
    for content in contents:
        before, found, text = (text or "").partition(content)
        if not found:
            return None
        parts.append(before)
    return [*parts, text or ""]
