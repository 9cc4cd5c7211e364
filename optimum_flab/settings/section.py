"""What the sections of the settings have in common. Light."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator


def _as_sources(value: Any) -> Any:
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(values, (list, tuple)):
        return value
    return [os.fspath(item) if isinstance(item, os.PathLike) else item for item in values]


Sources = Annotated[list[str], BeforeValidator(_as_sources)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic reads True as 1, and YAML reads "yes" and "on" as True
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("is a yes or no; give a value of the field's own kind")
        return value
