"""Which code of a chat answer is judged: what a human reader would take for the answer."""

from __future__ import annotations

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.evaluation.tasks import code
from optimum_flab.evaluation.tasks.answers import code_blocks, fenced_code

from .problems import TWICE


RIGHT = "def twice(x):\n    return x * 2\n"
WRONG = "def twice(x):\n    return x\n"
TAGGED = "# </think>\n"
RETRACTED = "def twice(x):\n    return x ** 2\n"


def block(text, fence="```", language="python"):
    return f"{fence}{language}\n{text}{fence}\n"


USAGE = block("print(twice(4))  # 8\n")
ANSWERS = {
    "a draft, then the answer": block(WRONG) + "That forgets to double. So:\n" + block(RIGHT),
    "a draft in the thinking": f"<think>\n{block(WRONG)}Hm, no.\n</think>\n\n{block(RIGHT)}",
    "the answer in the thinking too": f"<think>{block(RIGHT)}{block(WRONG)}</think>\n{block(RIGHT)}",
    "an answer that came back to the first": block(RIGHT) + block(WRONG) + "No, the first:\n" + block(RIGHT),
    "an answer whose head is a wrong one": block(WRONG) + block(WRONG.rstrip() + " * 2\n"),
    "thinking that began in the prompt": f"Let me try\n{block(WRONG)}No.\n</think>\n{block(RIGHT)}",
    "thinking twice": f"<think>\n{block(WRONG)}</think>\n{block(RETRACTED)}<think>\nhm\n</think>\n{block(RIGHT)}",
    "thinking in one line": f"<think>easy</think>{RIGHT}",
    "thinking that ends a line": f"<think>\nI am done.</think>\n{RIGHT}",
    "thinking that ends inside of a line": f"<think>\nhmm\nok</think>The answer:\n{block(RIGHT)}",
    "thinking that ends behind a quotation": f'<think>\n{block(WRONG)}It is "twice"</think>So:\n{block(RIGHT)}',
    "thinking that speaks of its tag": f"<think>\nI end with `</think>`.\n{block(WRONG)}ok</think>So: {block(RIGHT)}",
    "a draft with the tag in the thinking": f"<think>\n{block(TAGGED + WRONG)}ok</think> So:\n{block(RIGHT)}",
    "a bare fence without its end in the thinking": f"<think>\n```\n{WRONG}</think>\n{block(RIGHT, language='')}",
    "the tag on a line of a docstring": block(
        'def twice(x):\n    """Text between\n    <think>\n    and\n    </think>\n    """\n    return x * 2\n'
    ),
    "the tag in code behind thinking": "<think>\nhm</think> So:\n"
    + block('def twice(x):\n    """As in\n    a</think>\n    """\n    return x * 2\n'),
    "the end of a turn on a line of a docstring": block(
        'def twice(x):\n    """Text up to\n    </s>\n    """\n    return x * 2\n'
    ),
    "the beginning of a thought in a block that was cut off": "```python\ndef twice(x):\n    return x * 2\n"
    '    """\n<think>\n    """',
    "a fence at the end of a sentence": f"Sure! ```python\n{RIGHT}\n```\nExplanation.",
    "a fence behind words and code": f"With `sorted`, ~2 lines: ```python\n{RIGHT}```\n",
    "a bare fence at the end of a sentence": f"Here it is: ```\n{RIGHT}```\nExplanation.",
    "a fence at the end of a sentence behind another block": block(WRONG) + f"Better: ```python\n{RIGHT}```\nDone.",
    "a fence in a comment of the code": block("def twice(x):\n    # as ```\n    return x * 2\n"),
    "a fence without its end in the thinking": f"<think>\n```python\n{WRONG}</think>\n{block(RIGHT)}",
    "an example of use behind": block(RIGHT) + "For example:\n" + USAGE,
    "an example of use before": USAGE + block(RIGHT),
    "a shell command before": block("pip install x\n", language="bash") + block(RIGHT),
    "its output behind": block(RIGHT) + "prints\n" + block("8\n", language=""),
    "a part of the answer, quoted behind it": block("import math\n\n" + RIGHT) + "Its heart is\n" + block(RIGHT),
    "a head without a body behind": block(RIGHT) + "The line\n" + block("def twice(x):\n") + "begins it.\n",
    "a stub behind": block(RIGHT) + "An interface:\n" + block("def twice(x):\n    ...\n"),
    "a stub before": block('def twice(x):\n    """Return x times two."""\n') + block(RIGHT),
    "another function behind": block(RIGHT) + block("def test_twice():\n    assert twice(1) == 2\n"),
    "cut off behind the answer": block(RIGHT) + "Another way:\n```python\ndef twice(x):\n    return x +",
    "cut off in the only block": "```python\n" + RIGHT,
    "cut off behind a block that defines something else": block("pip install x\n") + "```python\n" + RIGHT,
    "tildes": block(RIGHT, fence="~~~"),
    "tildes around backticks": block(
        'def twice(x):\n    """\n```\ntwice(1)\n```\n    """\n    return 2 * x\n', fence="~~~"
    ),
    "longer fences": block('def twice(x):\n    """\n```\ntwice(1)\n```\n    """\n    return 2 * x\n', fence="````"),
    "a fence in a docstring": block(
        'def twice(x):\n    """\n    ```\n    twice(1)\n    ```\n    """\n    return 2 * x\n'
    ),
    "a fence in a fence": "```markdown\nHere it is:\n" + block(RIGHT) + "```\n",
    "a longer fence around": "````markdown\nHere it is:\n" + block(RIGHT) + "````\n",
    "a fence that was not ended before the next": "```\ndef twice(x):\n" + block(RIGHT),
    "in a list": "1. So:\n" + textwrap.indent(block(RIGHT), "   "),
    "behind a list mark": "1. ```python\n   def twice(x):\n       return x * 2\n   ```\n",
    "indented as a whole": textwrap.indent(block(RIGHT), "    "),
    "an end that is less indented": "  ```python\n" + textwrap.indent(RIGHT, "  ") + "```\n",
    "an unindented string in a list": "- so\n\n  ```python\n  def twice(x):\n      '''\n  text\n'''\n"
    "      return 2 * x\n  ```\n",
    "other line ends": block(RIGHT).replace("\n", "\r\n"),
    "an end of turn behind": block(RIGHT).rstrip() + "<|im_end|>\n<|im_start|>user\nThanks\n" + block(WRONG),
    "an end of turn without a fence": RIGHT.rstrip() + "<|eot_id|>",
    "an info string": '```python title="twice.py"\n' + RIGHT + "```\n",
    "an upper case language": block(RIGHT, language="Python"),
    "no language": block(RIGHT, language=""),
    "a space before the language": block(RIGHT, language=" python"),
    "words behind the end": "```python\n" + RIGHT + "``` This is it.\n",
    "no fence": RIGHT,
    "no fence but words around": f"Here is the function.\n\n{RIGHT}\nIt doubles the number.\n",
    "no fence, an import and words": f"Sure!\nimport math\n{RIGHT}Hope this helps!",
    "no fence, a constant in front": f"So:\nTWO = 2\n{RIGHT.replace('2', 'TWO')}",
    "no fence, a constant first": f"TWO = 2\n{RIGHT.replace('2', 'TWO')}",
    "a lambda": block("twice = lambda x: 2 * x\n") + USAGE,
    "the tag in a string": block("def twice(x):\n    tag = '</think>'\n    return 2 * x\n"),
    "the tag in a pattern": block(
        "import re\ndef twice(x):\n    re.sub(r'<think>.*?</think>', '', 'a')\n    return 2 * x\n"
    ),
    "the end of a turn in a string": block("def twice(x):\n    end = '<|im_end|>'\n    return 2 * x\n"),
}
WRONG_ANSWERS = {
    "an answer, then a wrong one": block(RIGHT) + "Better:\n" + block(WRONG),
    "an answer in the thinking alone": f"<think>\n{block(RIGHT)}",
    "an answer in thinking that does not end": f"<think>\nfirst\n</think>\n<think>\n{block(RIGHT)}",
    "an answer in the thinking, another behind": f"<think>\n{block(RIGHT)}</think>\n{block(WRONG)}",
    "an answer in thinking that does not end, with the tag in a block": f"<think>\n{block(TAGGED + RIGHT)}",
    "an answer in the next turn": f"{block(WRONG)}<|im_end|>\n<|im_start|>assistant\n{block(RIGHT)}",
    "a method": block("class Solution:\n    def twice(self, x):\n        return 2 * x\n"),
    "a coroutine": block("async def twice(x):\n    return 2 * x\n"),
    "an answer with a fault, cut short to what would run": "def twice(x):\n    return 2 * x\n    y = (\n",
    "nothing": "",
    "words": "I cannot say.",
}


def test_a_right_answer_is_found_behind_the_imports_of_the_prompt():
    verdicts = code.run_answers([list(ANSWERS.values())], [TWICE])[0]
    assert [name for name, verdict in zip(ANSWERS, verdicts, strict=True) if not verdict["passed"]] == []
    assert all(verdict["program"].startswith("import math\n\n") for verdict in verdicts)


def test_what_is_not_the_answer_is_not_taken_for_it():
    verdicts = code.run_answers([list(WRONG_ANSWERS.values())], [TWICE])[0]
    assert [name for name, verdict in zip(WRONG_ANSWERS, verdicts, strict=True) if verdict["passed"]] == []


def test_without_a_name_the_last_block_that_defines_something_is_the_answer():
    assert fenced_code(block(WRONG) + block(RIGHT) + USAGE) == RIGHT
    assert fenced_code(USAGE + block("x = 1\n")) == "x = 1\n"
    assert fenced_code(block("x = 1\n") + "```python\n" + RIGHT).rstrip() == RIGHT.rstrip()


WORDS = st.text(st.characters(categories=["L", "Zs", "P"], exclude_characters="`~<"), max_size=40)
BODIES = st.sampled_from([RIGHT, WRONG, "x = 1\n", "pip install x\n", "\n", "def helper():\n    return 1\n"])


@given(
    parts=st.lists(st.tuples(WORDS, BODIES, st.sampled_from(["```", "````", "~~~"]), st.sampled_from(["", "python"])))
)
def test_blocks_are_read_as_they_were_written(parts):
    text = "".join(f"{words}\n{fence}{language}\n{body}{fence}\n" for words, body, fence, language in parts)
    assert [(found.code, found.whole) for found in code_blocks(text)] == [(body, True) for _, body, _, _ in parts]


@given(parts=st.lists(st.tuples(WORDS, BODIES), min_size=1))
def test_a_definition_is_taken_if_there_is_one_and_the_last_one(parts):
    text = "".join(f"{words}\n{block(body)}" for words, body in parts)
    defining = [body for _, body in parts if "def twice" in body]
    if defining:
        # a repetition of an earlier answer is a quotation of it
        assert fenced_code(text, "twice") in defining
        assert fenced_code(text + "So:\n" + block(RETRACTED), "twice") == RETRACTED
