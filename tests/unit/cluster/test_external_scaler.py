"""The external scaler as KEDA calls it: over gRPC."""

import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hotseat.cluster.switcher.external_scaler import SERVICE, ExternalScaler, messages


class Caller:
    """KEDA's side of the protocol. `places` is what the switcher knows."""

    def __init__(self, tls: Path | None = None, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.places: dict[str, bool | None] = {"a": True, "b": False, "early": None}
        self.requests = {"a": 5}
        self.scaler = ExternalScaler(lambda name: self.places.get(name, False), self.demanded, "test", 0, tls)
        assert self.scaler.start() == ""
        address = f"localhost:{self.scaler.port}"
        self.channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)

    def demanded(self, model: str, concurrency: int) -> int:
        return min(self.requests[model], 2 * concurrency)

    def close(self) -> None:
        self.channel.close()
        self.scaler.close()

    def reference(self, name: str, namespace: str = "test", **metadata: str) -> Any:
        return messages["ScaledObjectRef"](name=name, namespace=namespace, scalerMetadata=metadata)

    def call(self, method: str, request: Any, answer: str) -> Any:
        call = self.channel.unary_unary(
            f"/{SERVICE}/{method}", type(request).SerializeToString, messages[answer].FromString
        )
        return call(request, timeout=30)

    def is_active(self, name: str, **more: str) -> bool:
        return bool(self.call("IsActive", self.reference(name, **more), "IsActiveResponse").result)

    def stream(self, model: str) -> "queue.SimpleQueue[bool]":
        call = self.channel.unary_stream(
            f"/{SERVICE}/StreamIsActive",
            messages["ScaledObjectRef"].SerializeToString,
            messages["IsActiveResponse"].FromString,
        )
        told: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def read() -> None:
            try:
                for each in call(self.reference(model)):
                    told.put(each.result)
            except grpc.RpcError:
                pass

        threading.Thread(target=read, daemon=True).start()
        return told


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.close()


def test_active_is_what_has_a_place(caller: Caller) -> None:
    assert caller.is_active("a")
    assert not caller.is_active("b")
    assert not caller.is_active("unknown")
    assert not caller.is_active("a", namespace="other")
    assert caller.is_active("mine", model="a"), "its metadata names the Model"


def test_an_answer_that_is_not_known_yet_is_none(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.is_active("early")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_change_is_told_at_once_and_its_state_to_each_new_stream(caller: Caller) -> None:
    told = caller.stream("b")
    assert told.get(timeout=30) is False
    caller.places["b"] = True
    caller.scaler.changed()
    assert told.get(timeout=30) is True
    assert caller.stream("b").get(timeout=30) is True
    caller.scaler.changed()
    caller.places["b"] = False
    caller.scaler.changed()
    assert told.get(timeout=30) is False, "what has not changed is not told again"


@pytest.mark.parametrize(("stated", "target", "value"), [({}, 1, 2), ({"concurrency": "4"}, 4, 5)])
def test_its_metric_is_the_requests_of_a_model_with_a_place(
    caller: Caller, stated: dict[str, str], target: int, value: int
) -> None:
    [spec] = caller.call("GetMetricSpec", caller.reference("a", **stated), "GetMetricSpecResponse").metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("requests", target, float(target))
    for model, expected in (("a", value), ("b", 0)):
        reference = caller.reference(model, **stated)
        request = messages["GetMetricsRequest"](scaledObjectRef=reference, metricName="requests")
        [found] = caller.call("GetMetrics", request, "GetMetricsResponse").metricValues
        assert (found.metricName, found.metricValue, found.metricValueFloat) == ("requests", expected, expected)


def test_a_port_that_is_taken_is_said(caller: Caller) -> None:
    other = ExternalScaler(lambda _: False, lambda *_: 0, "test", caller.scaler.port)
    assert str(caller.scaler.port) in other.start()
    other.changed()
    other.close()


def test_one_that_never_started_can_be_closed() -> None:
    ExternalScaler(lambda _: False, lambda *_: 0, "test", 0).close()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Make the certificate of an authority, of a server and of a client: one for all three."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            *names,
            *files,
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


def test_with_a_certificate_it_serves_tls(authority: Path) -> None:
    root = (authority / "tls.crt").read_bytes()
    caller = Caller(authority, grpc.ssl_channel_credentials(root))
    assert caller.is_active("a")
    caller.close()


def test_with_an_authority_it_serves_only_who_shows_a_certificate(authority: Path) -> None:
    root, key = (authority / "tls.crt").read_bytes(), (authority / "tls.key").read_bytes()
    (authority / "ca.crt").write_bytes(root)
    known = Caller(authority, grpc.ssl_channel_credentials(root, key, root))
    assert known.is_active("a")
    known.close()
    stranger = Caller(authority, grpc.ssl_channel_credentials(root))
    with pytest.raises(grpc.RpcError):
        stranger.is_active("a")
    stranger.close()
