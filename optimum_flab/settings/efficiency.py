"""What the measurement of efficiency is asked for, as a validated section. Light."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from .section import VerbSection


class BenchSettings(VerbSection):
    """What each model is made to do while its cost is measured; the `bench` section of a settings file.

    Raises:
        [`ConfigurationError`]: lists every unknown field and bad value at once.
    """

    NAME = "bench"

    prompt_tokens: int = Field(128, ge=1, description="tokens of each prompt")
    # at least two, since the first one is timed apart
    new_tokens: int = Field(32, ge=2, description="tokens generated for each prompt")
    batch_size: int = Field(8, ge=1, description="prompts of the larger batch; batch 1 is always measured")
    repeats: int = Field(5, ge=1, description="timed rounds")
    warmup: int = Field(1, ge=0, description="rounds before them that do not count")
    energy_seconds: float = Field(
        10.0, ge=0, description="how long at least each model runs for the estimate of energy, 0 for none"
    )
    country: str | None = Field(
        None,
        description="three-letter ISO code of the country whose electricity is used (default: the world average)",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="number format of the computation (default: each model's own)"
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_of_dtype(cls, value: Any) -> Any:
        return value if value is None else str(value).removeprefix("torch.")

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are timed, 1 first."""
        return tuple(sorted({1, self.batch_size}))

    @property
    def workload(self) -> dict[str, Any]:
        """What decides the work itself, as plain values."""
        return self.model_dump(exclude={"country", "dtype"})
