import pytest

from . import tiny_tokenizers
from .llama_files import llama


MAKERS = {**tiny_tokenizers.MAKERS, "llama": llama}


@pytest.fixture(scope="session")
def tokenizers():
    """One of each kind, by name."""
    return {name: maker() for name, maker in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def tokenizer(request, tokenizers):
    return tokenizers[request.param]
