"""Virtual models of a Workspace: names whose requests one of several Models answers. Pure."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.types import Document, ModelName


class Strategy(StrEnum):
    """How a virtual model chooses the member for a request."""

    WARM = "Warm"
    SPILLOVER = "Spillover"
    WEIGHT = "Weight"


class VirtualModelMember(Document):
    """One of the Models of a virtual model."""

    model: ModelName = Field(description="Any name of a Model, in any Workspace.")
    weight: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Share of the requests (strategy Weight). Unset: 1."
    )
    max_requests: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="Requests in flight or queued from which the next member gets requests (strategy Spillover). Each router of a "
        "cluster counts its own. Unset: no limit.",
    )


class VirtualModel(Document):
    """A name whose requests one of several Models answers."""

    name: ModelName = Field(description="Name that clients send as `model`. No Model may have it.")
    strategy: Strategy = Field(
        default=Strategy.WARM,
        description="Member that gets a request. Warm: the first that is ready, else one that is loading, else one that is parked, else "
        "the first. Spillover: the first with less than maxRequests requests, else the last. Weight: the members in turn, by weight.",
    )
    members: tuple[VirtualModelMember, ...] = Field(
        min_length=1,
        max_length=100,
        description="Models, in order. Models that do not support the kind of request are left out.",
    )
    description: str = Field(default="", description="Shown in the list of models.")

    @field_validator("members")
    @classmethod
    def _fields_are_for_a_strategy(
        cls, members: tuple[VirtualModelMember, ...], info: ValidationInfo
    ) -> tuple[VirtualModelMember, ...]:
        strategy = info.data.get("strategy")
        if strategy not in (None, Strategy.WEIGHT) and any(each.weight is not None for each in members):
            raise ValueError("weight is for strategy Weight only")
        if strategy not in (None, Strategy.SPILLOVER) and any(each.max_requests is not None for each in members):
            raise ValueError("maxRequests is for strategy Spillover only")
        return members
