"""llama.cpp's tokens of texts, by its library in the package llama-cpp-py-sync.

This file is run by itself, as `export/llama_library.py` is. Standard input is a list of texts as JSON, standard output
a list of their ids.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def main() -> int:
    """Tokenises texts with the tokenizer of a file; returns the exit status."""
    print(json.dumps(tokens_of(sys.argv[1], json.load(sys.stdin))))
    return 0


def tokens_of(path: str, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text by a file's tokenizer, without those that frame a text; special tokens are recognised."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, library = get_ffi(), get_lib()
    settings = library.llama_model_default_params()
    settings.vocab_only = True
    model = library.llama_model_load_from_file(path.encode(), settings)
    if model == ffi.NULL:
        raise SystemExit(f"llama.cpp cannot load {path}")
    vocabulary, lists = library.llama_model_get_vocab(model), []
    for text in texts:
        content = text.encode()
        ids = ffi.new("llama_token[]", len(content) + 16)
        count = library.llama_tokenize(vocabulary, content, len(content), ids, len(ids), False, True)
        lists.append([ids[place] for place in range(count)])
    library.llama_model_free(model)
    return lists


if __name__ == "__main__":
    sys.exit(main())
