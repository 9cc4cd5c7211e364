"""The settings of the efficiency measurement, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .section import Dtype, Flag, Section


class BenchSettings(Section):
    """What each model does while its cost is measured; the `bench` section of a settings file.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value at once.
    """

    prompt_tokens: int = Field(default=128, ge=1, description="tokens of each prompt")
    # at least two, since the first one is timed separately
    new_tokens: int = Field(default=32, ge=2, description="tokens generated for each prompt")
    batch_size: int = Field(default=8, ge=1, description="prompts of the larger batch; batch 1 is always measured")
    repeats: int = Field(default=5, ge=1, description="timed rounds")
    warmup: int = Field(default=1, ge=0, description="untimed rounds before them")
    energy_seconds: float = Field(
        default=10.0, ge=0, description="least time that each model runs for the energy estimate, 0 for no estimate"
    )
    country: Annotated[str | None, Flag(metavar="CODE")] = Field(
        default=None,
        description="three-letter ISO code of the country whose electricity is used (default: the world average)",
    )
    dtype: Dtype = Field(default=None, description="number format of the computation (default: each model's own)")

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are timed, 1 first."""
        return tuple(sorted({1, self.batch_size}))

    @property
    def workload(self) -> dict[str, Any]:
        """The settings that decide the work itself, as plain values."""
        return self.model_dump(exclude={"country", "dtype"})
