"""Has llama.cpp continue a text with a GGUF file: `python examples/complete_gguf.py FILE 'def fibonacci(n):'`.

It needs `pip install llama-cpp-py-sync`, and no compiler.
"""

from __future__ import annotations

import sys

from llama_cpp_py_sync import Llama


def main(path: str, prompt: str) -> None:
    """Prints the prompt and its most likely continuation."""
    with Llama(path, n_ctx=256, verbose=False) as model:
        print(prompt + model.generate(prompt, max_tokens=48, temperature=0.0))


if __name__ == "__main__":
    main(*sys.argv[1:])
