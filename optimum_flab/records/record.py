"""What the sections of the report have in common. Lightweight."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


# JSON has no NaN: what was not a number is null in the file
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Record(BaseModel):
    """A section of the report: immutable, and without fields that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")
