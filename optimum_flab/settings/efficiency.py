"""The settings of the efficiency measurement, as a validated section. Lightweight."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from .section import Dtype, Flag, Section


class BenchSettings(Section):
    """What each model does while its cost is measured; the `bench` section of a settings file.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value at once.
    """

    prompt_tokens: PositiveInt = 128
    """tokens of each prompt"""
    # at least two, since the first one is timed separately
    new_tokens: Annotated[int, Field(ge=2)] = 32
    """tokens generated for each prompt"""
    batch_size: PositiveInt = 8
    """prompts of the larger batch; batch 1 is always measured"""
    repeats: PositiveInt = 5
    """timed rounds"""
    warmup: NonNegativeInt = 1
    """untimed rounds before them"""
    energy_seconds: NonNegativeFloat = 10.0
    """least time that each model runs for the energy estimate, 0 for no estimate"""
    country: Annotated[str | None, Flag(metavar="CODE")] = None
    """three-letter ISO code of the country whose electricity is used (default: the world average)"""
    dtype: Dtype = None
    """number format of the computation (default: each model's own)"""

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are timed, 1 first."""
        return tuple(sorted({1, self.batch_size}))

    @property
    def workload(self) -> dict[str, Any]:
        """The settings that decide the work itself, as plain values."""
        return self.model_dump(exclude={"country", "dtype"})
