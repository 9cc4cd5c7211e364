import pytest

from .tiny_tokenizers import MAKERS


@pytest.fixture(scope="session")
def tokenizers():
    """One of each kind, by name."""
    return {name: maker() for name, maker in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def tokenizer(request, tokenizers):
    return tokenizers[request.param]
