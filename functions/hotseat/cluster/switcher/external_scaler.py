"""The external scaler that KEDA asks whether a Model has a place, and for its demand (gRPC, KEDA's externalscaler.proto).

Only the leader serves it. Before it knows what runs, every call fails with UNAVAILABLE, at which KEDA
changes nothing: an answer of `inactive` would stop what an earlier switcher had started.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

log = logging.getLogger(__name__)

HasPlace = Callable[[str], bool | None]
Demanded = Callable[[str, int], int]
METRIC: Final = "requests"  # of a Model with a place; the target is what one pod takes at once
_GRACE = 0.5  # seconds for calls in flight when the server ends
_START = 5.0  # seconds to wait for the server
_STRING, _BOOL, _INT64, _DOUBLE = "TYPE_STRING", "TYPE_BOOL", "TYPE_INT64", "TYPE_DOUBLE"
# Messages of the protocol: field, number and type. A message as type is repeated if the field's name is plural.
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "ScaledObjectRef": (("name", 1, _STRING), ("namespace", 2, _STRING), ("scalerMetadata", 3, "map")),
    "IsActiveResponse": (("result", 1, _BOOL),),
    "MetricSpec": (("metricName", 1, _STRING), ("targetSize", 2, _INT64), ("targetSizeFloat", 3, _DOUBLE)),
    "GetMetricSpecResponse": (("metricSpecs", 1, "MetricSpec"),),
    "GetMetricsRequest": (("scaledObjectRef", 1, "ScaledObjectRef"), ("metricName", 2, _STRING)),
    "MetricValue": (("metricName", 1, _STRING), ("metricValue", 2, _INT64), ("metricValueFloat", 3, _DOUBLE)),
    "GetMetricsResponse": (("metricValues", 1, "MetricValue"),),
}
_PACKAGE: Final = "externalscaler"
SERVICE: Final = f"{_PACKAGE}.ExternalScaler"


def _message_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="externalscaler.proto", package=_PACKAGE, syntax="proto3")
    one, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            made = message.field.add(name=field, number=number, label=many if field.endswith("s") else one)
            if kind.startswith("TYPE_"):
                made.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
                continue
            made.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
            made.type_name = f".{_PACKAGE}.{kind}"
            if kind == "map":
                made.label, made.type_name = many, f".{_PACKAGE}.{name}.ScalerMetadataEntry"
                entry = message.nested_type.add(name="ScalerMetadataEntry")
                entry.options.map_entry = True
                for key, at in (("key", 1), ("value", 2)):
                    entry.field.add(
                        name=key, number=at, label=one, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING
                    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


messages: Final = _message_types()


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _credentials(folder: Path) -> Any:
    """Return the credentials of the files in a folder, which are read again for each connection: they are renewed."""
    authority = (folder / "ca.crt").exists()

    def read() -> Any:
        pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], (folder / "ca.crt").read_bytes() if authority else None
        )

    return grpc.dynamic_ssl_server_credentials(read(), read, require_client_authentication=authority)


class ExternalScaler:
    """A gRPC server on a thread of its own. `has_place` may be called there at any time; None: it is not known yet.

    `demanded` is called with a Model that has a place, and the requests that one pod takes at once. It
    returns the requests for which KEDA is to provide pods. `tls` is a directory with tls.crt and
    tls.key, and ca.crt if KEDA has to show a certificate; None: no TLS.
    """

    def __init__(
        self, has_place: HasPlace, demanded: Demanded, namespace: str, port: int, tls: Path | None = None
    ) -> None:
        self._has_place = has_place
        self._demanded = demanded
        self._namespace = namespace
        self._port = port
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()  # replaced at each change, so that no stream misses one
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._problem = ""
        self.port = 0  # on which it listens
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="external-scaler", daemon=True)

    def start(self) -> str:
        """Start to serve. Return why it cannot, or empty."""
        self._thread.start()
        if not self._started.wait(_START):
            self._problem = "it does not start"
        return self._problem

    def changed(self) -> None:
        """Tell KEDA what has changed. From any thread."""
        self._call(self._wake_streams)

    def close(self) -> None:
        """End the server."""
        self._call(self._ended.set)
        if self._thread.is_alive():
            self._thread.join(2 * _GRACE)

    def _call(self, what: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(what)

    def _wake_streams(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])  # else a second one would listen as well
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        try:
            address = f"[::]:{self._port}"
            self.port = (
                server.add_insecure_port(address)
                if self._tls is None
                else server.add_secure_port(address, _credentials(self._tls))
            )
            await server.start()
        except (OSError, RuntimeError, ValueError) as error:
            self._problem = str(error)
            self._started.set()
            return
        self._started.set()
        log.info("the external scaler serves on port %d%s", self.port, " with TLS" if self._tls else "")
        await self._ended.wait()
        await server.stop(_GRACE)

    def _handlers(self) -> dict[str, Any]:
        def unary(call: Callable[..., Any], request: str) -> Any:
            return grpc.unary_unary_rpc_method_handler(call, messages[request].FromString, _serialize)

        return {
            "IsActive": unary(self._is_active, "ScaledObjectRef"),
            "GetMetricSpec": unary(self._metric_spec, "ScaledObjectRef"),
            "GetMetrics": unary(self._metrics, "GetMetricsRequest"),
            "StreamIsActive": grpc.unary_stream_rpc_method_handler(
                self._stream, messages["ScaledObjectRef"].FromString, _serialize
            ),
        }

    async def _place_of(self, reference: Any, context: Any) -> bool:
        """Return whether a Model has a place. One that is not known has none."""
        found = self._has_place(_model(reference)) if reference.namespace == self._namespace else False
        if found is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the switcher does not know yet what runs")
        return bool(found)

    async def _is_active(self, reference: Any, context: Any) -> Any:
        return messages["IsActiveResponse"](result=await self._place_of(reference, context))

    async def _stream(self, reference: Any, context: Any) -> AsyncIterator[Any]:
        told: bool | None = None
        while True:
            changed = self._changed  # of before the answer
            if (now := await self._place_of(reference, context)) is not told:
                told = now
                yield messages["IsActiveResponse"](result=now)
            await changed.wait()

    async def _metric_spec(self, reference: Any, _context: Any) -> Any:
        target = _concurrency(reference)
        return messages["GetMetricSpecResponse"](
            metricSpecs=[messages["MetricSpec"](metricName=METRIC, targetSize=target, targetSizeFloat=float(target))]
        )

    async def _metrics(self, request: Any, context: Any) -> Any:
        reference, value = request.scaledObjectRef, 0
        if await self._place_of(reference, context):
            value = self._demanded(_model(reference), _concurrency(reference))
        return messages["GetMetricsResponse"](
            metricValues=[messages["MetricValue"](metricName=METRIC, metricValue=value, metricValueFloat=float(value))]
        )


def _model(reference: Any) -> str:
    return str(reference.scalerMetadata.get("model", "") or reference.name)


def _concurrency(reference: Any) -> int:
    """Return the requests that one pod takes at once. A trigger that does not state them is that of a single pod."""
    stated = reference.scalerMetadata.get("concurrency", "")
    return max(1, int(stated)) if stated.isdecimal() else 1
