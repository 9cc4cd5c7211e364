from __future__ import annotations

import pytest

from optimum_flab.execution import Isolation

from .attacks import isolation_named


@pytest.fixture(
    scope="session", params=["bubblewrap", "Landlock", pytest.param("degraded", marks=pytest.mark.thorough)]
)
def isolation(request: pytest.FixtureRequest) -> Isolation:
    return isolation_named(request.param) or pytest.skip(f"{request.param} does not work here")


@pytest.fixture(scope="session")
def bubblewrap() -> Isolation:
    return isolation_named("bubblewrap") or pytest.skip("bubblewrap does not work here")
