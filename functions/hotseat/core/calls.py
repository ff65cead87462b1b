"""Requests that are sent to an engine to have it sleep or wake: a part of the Model document, and of what engines say of themselves."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from hotseat.core.base import TARGET_PATTERN, Argument, Document
from hotseat.core.units import Duration


class Method(StrEnum):
    """HTTP method of the request."""

    POST = "POST"
    GET = "GET"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


class EngineCall(Document):
    """A request to an engine. A 2xx response means success."""

    path: Annotated[str, Field(pattern=TARGET_PATTERN, max_length=2048)] = Field(
        description="Path and query, such as `/sleep?level=1`."
    )
    method: Method = Field(default=Method.POST, description="Method.")
    body: Argument = Field(default="", description="Body, sent as application/json. Empty: no body.")
    timeout: Duration | None = Field(
        default=None,
        description="Time within which the engine must respond. Unset: stopTimeout (sleep) or startTimeout "
        "(wake) bounds all requests together.",
    )
