"""Requests that are sent to an engine to have it sleep or wake: a part of the Model document, and of what engines say of themselves."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from hotseat.core.base import TARGET_PATTERN, Argument, Document
from hotseat.core.units import Duration


class Method(StrEnum):
    """Methods of such a request."""

    POST = "POST"
    GET = "GET"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


class EngineCall(Document):
    """A request to an engine; an answer of 2xx says that it is done."""

    path: Annotated[str, Field(pattern=TARGET_PATTERN, max_length=2048)] = Field(
        description="Path, with its query: `/sleep?level=1`."
    )
    method: Method = Field(default=Method.POST, description="Method.")
    body: Argument = Field(default="", description="Body, sent as application/json; empty: none.")
    timeout: Duration | None = Field(
        default=None,
        description="An answer that takes longer is a failure; unset: stopTimeout or startTimeout bound all of it.",
    )
