"""Routes for inference, and what the head of a request for one of them says."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hotseat.api.model import Api, Capability
from hotseat.api.workspace import Tenants
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import BadRequest, UnknownModel
from hotseat.gateway.auth import INFER, OPERATE, ApiKey, Caller, Operation
from hotseat.gateway.body import Body, check_encoding, parse_body, rename_model
from hotseat.gateway.form import boundary_of, is_form, parse_form, rename_form
from hotseat.gateway.http.request import Fields, Request
from hotseat.gateway.query import parse_query, rename_query
from hotseat.gateway.translation import Translation
from hotseat.gateway.unnamed_model import unnamed_model
from hotseat.gateway.wait_headers import NO_LIMITS, WaitOptions, loading_option, wait_options

if TYPE_CHECKING:
    from hotseat.gateway.parameters import Changes

_OF_ITS_API = re.compile(rb"(?i)content-type$|accept$|anthropic-")  # headers that a translated request does not have

REQUEST_ID = b"X-Request-Id"

Translate = Callable[[bytes, str, str], Translation]


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: its path, its label in metrics, and the capability that it needs. The routes are in apis/.

    `translate` makes the request for an engine that does not have `api`: from the body, the name of the model to the engine, and the name
    that the client sent. It raises BadRequest. None: the request is passed on in any case. Comments are for streams of events only.
    `tag` is an end that names may have in this API. `unloads` says of a body whether it asks to unload its Model.

    A GET names its model in the query. It never loads a Model, unless it is for a change of the protocol (`upgrade`).
    """

    path: str
    label: str
    capability: Capability | None  # None: every Model has it
    api: Api = Api.OPENAI
    translate: Translate | None = None
    events: bool = True  # its streams are streams of events
    tag: str = ""
    unloads: Callable[[bytes], bool] | None = None
    form: bool = False  # the body may be a form (multipart/form-data)
    resident: bool = False  # a request without a `model` is for the Model that is resident, and loads none
    upgrade: bool = False  # it must ask for an upgrade, such as to a WebSocket
    operation: Operation = INFER  # that a key needs


class AcceptedHead:
    """What the head of a request says. Requests with the same head share it (`http.request.Listener`)."""

    __slots__ = (
        "_options",
        "_tenants",
        "boundary",
        "caller",
        "checks_body",
        "encoded",
        "id_header",
        "in_query",
        "loading",
        "parse",
        "rename",
        "route",
        "target",
        "translated",
        "translated_fields",
    )

    def __init__(self, request: Request, route: Route, caller: Caller) -> None:
        """Raise the HotseatError for the client if the head is not acceptable, or if the caller may not use the route."""
        check_encoding(request.headers)
        caller.key.check((route.operation,), route.path)
        self.route, self.caller = route, caller
        # The name of the Model, and whether it is to be unloaded, are in the body.
        self.checks_body = not caller.key.has_all_models or (
            route.unloads is not None and not caller.key.may((OPERATE,))
        )
        self.id_header = b"request-id" if route.api is Api.ANTHROPIC else REQUEST_ID  # as clients of the API know it
        self.target = f"{route.path}?{request.query}".encode() if request.query else route.path.encode()
        self.loading = loading_option(request.headers)
        self.parse: Callable[[bytes], Body] = parse_body
        self.rename: Callable[[Body, str, Sequence[Changes]], bytes] = rename_model
        self.boundary = b""  # of a form
        self.in_query = request.method != "POST"
        if self.in_query:
            self.parse, self.rename = partial(parse_query, request.query), rename_query
        elif route.form and is_form(kind := request.headers.get("content-type", "")):
            boundary = self.boundary = boundary_of(kind)
            self.parse, self.rename = partial(parse_form, boundary=boundary), partial(rename_form, boundary=boundary)
        if route.upgrade and not request.upgrade:
            raise BadRequest(f"{route.path} is for WebSockets: the request must ask for an upgrade.")
        self.encoded: dict[bytes, bytes] = {}  # as engines get it, by Host
        # As engines get it that do not have the API: by path, then by Host.
        self.translated: dict[str, dict[bytes, bytes]] = {}
        self.translated_fields: Fields = ()
        if route.translate is not None:
            kept = (field for field in request.fields if not _OF_ITS_API.match(field[0]))
            self.translated_fields = (*kept, (b"Content-Type", b"application/json"))
        self._tenants: Tenants | None = None
        self._options = NO_LIMITS

    def check_body(self, body: Body, registry: ModelRegistry) -> None:
        """Raise Forbidden if the caller may not use the Model of a request with this body, or may not do with it what the body asks."""
        key, route, name = self.caller.key, self.route, body.model
        if not name and not key.has_all_models:
            target, default = unnamed_model(registry, route, in_query=self.in_query)
            key.check_model(None, (*target.model.names, *([] if default is None else [default])))
        elif name:
            check_named_model(key, registry.known_name(name, route.tag), registry, switched=True)
        if route.unloads is not None and route.unloads(body.raw):
            key.check((OPERATE,), "a request that unloads its model")

    def options(self, request: Request, tenants: Tenants) -> WaitOptions:
        """Return the wait options of the request. Raise BadRequest if a header is invalid."""
        if tenants is not self._tenants:
            self._options, self._tenants = wait_options(request.headers, tenants, self.caller.key.name), tenants
        return self._options


def check_named_model(key: ApiKey, name: str, registry: ModelRegistry, *, switched: bool = False) -> None:
    """Raise Forbidden if a key may not use the Model of this name. `switched`: a profile may switch the name to another Model."""
    if key.has_all_models:
        return
    names: tuple[str, ...] = ()
    if not (switched and registry.names is not None and name in registry.names.switched):
        with suppress(UnknownModel):  # of a virtual model, or of none
            names = registry.find(name).model.names
    key.check_model(name, names)
