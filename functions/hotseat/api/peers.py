"""Peers of a Workspace: other hotseats whose models are served here too. Pure."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.engine_access import Tls
from hotseat.api.secrets import SecretValue
from hotseat.api.types import ORIGIN_PATTERN, Document, ModelName, Name
from hotseat.api.units import Duration


class Peer(Document):
    """Another hotseat, whose models are served here too. Models of documents go before models of peers with the same name."""

    name: Name = Field(description="Name of the peer, which is `peer` of its models in /v1/models.")
    url: Annotated[str, Field(pattern=ORIGIN_PATTERN, max_length=2048)] = Field(
        description="Address of the peer, such as http://gpu-2:8000."
    )
    key: SecretValue | None = Field(default=None, description="API key for the peer.")
    tls: Tls | None = Field(default=None, description="TLS towards a peer with https.")
    models: tuple[ModelName, ...] = Field(
        default=("*",),
        max_length=100,
        description="Names of its models that are served here. `*` stands for any characters, `?` for one.",
    )
    prefix: str = Field(default="", max_length=100, description="What the names of its models begin with here.")
    refresh_period: Duration = Field(default=30.0, description="Interval at which its list of models is read.")

    @field_validator("tls")
    @classmethod
    def _tls_is_for_https(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        if tls is not None and not str(info.data.get("url", "https://")).startswith("https://"):
            raise ValueError("tls is set, but url does not begin with https://")
        return tls
