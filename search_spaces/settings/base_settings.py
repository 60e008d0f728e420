"""The base class of all settings blocks, and types with bounds. Imports neither torch nor ray."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A frozen block of settings that refuses unknown keys, wrong types, NaN and infinity."""

    # The docstrings of fields become their descriptions, from which the reference tables are generated.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
