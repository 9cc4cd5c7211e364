"""A Modelfile makes Ollama show a model its prompts as transformers would."""

import copy
import re

import pytest

from optimum_flab.checkpoints.loading import dense_from_memory
from optimum_flab.export.modelfile import chat_template, modelfile
from optimum_flab.texts.formats import formats_of

from ..conftest import byte_level_tokenizer
from .test_weights import tiny


QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ first if loop.first }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NUMBERED = "{% for m in messages %}{{ loop.index }}. {{ m.content }}\n{% endfor %}"


def with_template(template):
    tokenizer = copy.deepcopy(byte_level_tokenizer(600))
    tokenizer.chat_template = template
    return tokenizer


def as_ollama_writes(template, turns, system):
    """What Ollama makes of a conversation up to where it answers: the template once for each question."""
    either = re.fullmatch(r"{{ if \.System }}(.*?){{ else }}(.*?){{ end }}(.*)", template, re.DOTALL)
    text = ""
    for asked, answered in turns:
        one = either[1 if system else 2] + either[3]
        if answered is None:
            one = one.partition("{{ .Response }}")[0]
        for name, value in (("System", system), ("Prompt", asked), ("Response", answered)):
            one = one.replace(f"{{{{ .{name} }}}}", value or "")
        text, system = text + one, ""
    return text


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize(("template", "default"), [(QWEN, "You help."), (GEMMA, "")])
def test_a_conversation_is_written_as_the_chat_template_does(template, default, system):
    tokenizer = with_template(template)
    written, found = chat_template(formats_of(tokenizer).chat)
    assert found == default
    turns = [("What is 1?", "One."), ("And 2?", "Two."), ("3?", None)]
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}]
        messages += [{"role": "assistant", "content": answered}] if answered else []
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert as_ollama_writes(written, turns, system or found) == expected


def test_a_model_is_stopped_and_sampled_as_it_says():
    tokenizer = with_template(NUMBERED)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]})
    model = tiny("llama")
    model.generation_config.update(eos_token_id=[0, 5], do_sample=True, temperature=0.7, top_p=0.8)
    text = modelfile(dense_from_memory(model, tokenizer), "tiny.gguf")
    ends = [f'PARAMETER stop "{token}"' for token in tokenizer.convert_ids_to_tokens([0, 5])]
    for line in (
        "FROM ./tiny.gguf",
        *ends,
        "PARAMETER num_ctx 64",
        "PARAMETER temperature 0.7",
        "PARAMETER top_p 0.8",
    ):
        assert line in text.splitlines()
    assert "TEMPLATE" not in text and "# The chat template" in text
    tokenizer.chat_template = QWEN.replace("<|im_end|>", '"""')  # ends a TEMPLATE
    assert "TEMPLATE" not in modelfile(dense_from_memory(model, tokenizer), "tiny.gguf")
    tokenizer.chat_template = "{{ raise_exception('a system turn, please') }}"
    assert "TEMPLATE" not in modelfile(dense_from_memory(model, tokenizer), "tiny.gguf")
    tokenizer.chat_template = None
    text = modelfile(dense_from_memory(model, tokenizer), "tiny.gguf")
    gap = "<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>"
    assert f'TEMPLATE """{{{{ if .Suffix }}}}{gap}{{{{ else }}}}{{{{ .Prompt }}}}{{{{ end }}}}"""' in text
