"""How hotseat reaches an engine or an upstream: its key, further headers, TLS and time limits. Parts of the Model document."""

from typing import Annotated, ClassVar, Final

from pydantic import Field, field_validator

from hotseat.api.secrets import SecretValue
from hotseat.api.types import HEADER_PATTERN, Document
from hotseat.api.units import Duration

# Headers that are about the connection and the body, which hotseat sets itself.
OWN_HEADERS: Final = (
    "host", "connection", "content-length", "transfer-encoding", "content-type", "upgrade", "te", "trailer", "expect", "keep-alive",
    "proxy-connection",
)  # fmt: skip
# Of an external server: no user and password, which are shown, and no fragment.
UPSTREAM_URL: Final = r"https?://[^/@?#]+(/[^?#]*)?(\?[^#]*)?"
HeaderName = Annotated[str, Field(pattern=HEADER_PATTERN, max_length=100)]


def _not_ours(name: str) -> str:
    if name.lower() in OWN_HEADERS:
        raise ValueError(f"header {name} is set by hotseat itself")
    return name


class EngineKey(SecretValue):
    """The key that hotseat sends to the engine or upstream with each request."""

    header: HeaderName = Field(
        default="Authorization",
        description="Header that has the key. Authorization: `Bearer KEY`. Any other: the key alone.",
    )

    @field_validator("header")
    @classmethod
    def _header_is_free(cls, header: str) -> str:
        return _not_ours(header)


class EngineHeader(SecretValue):
    """A header that hotseat adds to each request for the engine or upstream."""

    name: HeaderName = Field(description="Name of the header. A header of this name from the client is dropped.")

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        return _not_ours(name)


class Tls(Document):
    """How the certificate of an https upstream is verified."""

    local_paths: ClassVar[tuple[str, ...]] = ("ca_file",)

    ca_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="File with the certificates (PEM) of the authorities that are trusted, instead of the system's. It is read again when "
        "it changes. On one machine a relative path is relative to the folder of the document.",
    )
    server_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None,
        description="Host name that is asked for (SNI) and that the certificate must have. Default: the host in `url`.",
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="Accept any certificate. Whoever can redirect the connection can then read the key and all requests.",
    )


class ResponseStartTimeouts(Document):
    """Time limits like responseStartTimeout, by kind of request."""

    chat: Duration | None = Field(default=None, description="Chat completions, responses and messages.")
    completion: Duration | None = Field(default=None, description="Completions and infill.")
    embedding: Duration | None = Field(default=None, description="Embeddings.")
    rerank: Duration | None = Field(default=None, description="Reranking.")
    transcription: Duration | None = Field(default=None, description="Transcriptions and translations of audio.")
    speech: Duration | None = Field(default=None, description="Speech.")
    image: Duration | None = Field(default=None, description="Images.")
    moderation: Duration | None = Field(default=None, description="Moderations.")
