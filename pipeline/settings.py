"""The base of all settings, and the kinds of value that they share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.runs import NAME

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Norm = Literal["none", "batch"]
Matrix = Literal["Hess", "G", "H"]
Split = Literal["train", "test"]
Cube = Literal["training", "spectrum", "hierarchy", "layers", "overlap", "theory", "bounds"]
Method = Literal["base", "appr", "iter", "iter-d", "iter-m"]
Epoch = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys and infinite numbers are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
