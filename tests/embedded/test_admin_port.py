"""`hotseat up --admin-port`: admin routes on a port of their own, on loopback."""

import socket

from .conftest import Up
from .harness import CHAT, Call, chat, model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_admin_routes_are_on_that_port_and_requests_on_both(up: Up) -> None:
    port = free_port()
    hotseat = up(model("a"), options=("--admin-port", str(port)))
    admin = f"127.0.0.1:{port}"
    assert hotseat.call("POST", CHAT, chat("a")).answer().status == 200
    assert [hotseat.get(path).status for path in ("/health", "/ready", "/v1/models")] == [200] * 3
    assert [hotseat.get(path).status for path in ("/running", "/metrics", "/api/switches")] == [404] * 3
    assert Call(hotseat.address, "POST", "/api/models/unload").answer().status == 404
    assert [Call(admin, "GET", path).answer().status for path in ("/running", "/metrics", "/health")] == [200] * 3
    assert Call(admin, "POST", "/api/models/unload?wait=true").answer().status == 200
    assert Call(admin, "GET", "/running", headers={"Host": hotseat.address}).answer().status == 200, "whatever it says"
    assert Call(hotseat.address, "GET", "/running", headers={"Host": admin}).answer().status == 404


def test_it_is_on_loopback_so_that_a_rebound_name_is_refused_there(up: Up) -> None:
    port = free_port()
    hotseat = up(model("a"), options=("--admin-port", str(port), "--host", "0.0.0.0", "--no-auth"))
    page = {"Host": "gpu-box:8000"}
    assert Call(hotseat.address, "GET", "/v1/models", headers=page).answer().status == 200
    assert Call(f"127.0.0.1:{port}", "GET", "/running", headers=page).answer().code == "host_not_allowed"
    assert Call(f"127.0.0.1:{port}", "GET", "/running").answer().status == 200
