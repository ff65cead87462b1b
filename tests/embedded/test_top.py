"""`hotseat top` in a terminal, beside a real hotseat and as `hotseat up --top`."""

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path

from .conftest import Up
from .harness import Hotseat, eventually, model
from .terminal import Terminal, terminal


def pinned(hotseat: Hotseat) -> set[str]:
    return {row["model"] for row in hotseat.get("/running").json()["running"] if row["pinned"]}


def test_models_are_loaded_pinned_and_unloaded_by_keys(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    with terminal("--url", hotseat.url, "top") as top:
        top.shows("▶ a")
        top.press("\x1b[B")
        top.shows("▶ b")
        top.press("l")
        eventually(lambda: hotseat.running() == {"b": "ready"})
        top.shows("▶ b    ready")
        top.shows("LAST SWITCHES")
        top.press("p")
        eventually(lambda: pinned(hotseat) == {"b"})
        top.shows("ready,pinned")
        top.press("p")
        eventually(lambda: not pinned(hotseat))
        eventually(lambda: "ready,pinned" not in top.screen)
        top.press("u")
        eventually(lambda: not hotseat.running())
        top.press("q")
        assert top.ended() == 0


def test_a_model_with_requests_in_flight_is_unloaded_after_a_question(up: Up) -> None:
    hotseat = up(model("a", "--tokens-per-second", "5"))
    call = hotseat.send("a", max_tokens=200)
    with terminal("--url", hotseat.url, "top") as top:
        top.shows("1 in flight")
        top.press("u")
        top.shows("Unload a? 1 in flight finish first.")
        top.press("n")
        top.shows("↑↓ select")
        assert hotseat.running() == {"a": "ready"}
        top.press("uy")
        eventually(lambda: hotseat.running() == {"a": "draining"})
        call.leave()
        eventually(lambda: not hotseat.running())


def test_a_switch_is_shown_with_its_phase_and_who_waits(up: Up) -> None:
    hotseat = up(model("a", "--tokens-per-second", "10"), model("b", "--load-time", "1"))
    first = hotseat.send("a", max_tokens=100)
    with terminal("--url", hotseat.url, "top") as top:
        top.shows("1 in flight")
        second = hotseat.send("b")
        top.shows("1 queued")
        first.leave()
        shown = top.shows("a → b")
        assert "switch  a → b" in shown or "LAST SWITCHES" in shown
        assert second.answer().status == 200


def test_it_survives_a_restart_and_a_change_of_size(up: Up) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    hotseat = up(model("a"), options=("--port", port))
    with terminal("--url", hotseat.url, "top", columns=100) as top:
        top.shows("▶ a")
        top.resize(40, 12)
        eventually(lambda: max(map(len, top.screen.splitlines())) <= 40 and "MODEL" in top.screen)
        top.resize(100, 30)
        hotseat.close()
        top.shows("connecting…")
        again = up(model("a"), model("c"), options=("--port", port))
        top.shows("  c")
        top.press("l")
        eventually(lambda: again.running() == {"a": "ready"})
        top.press("\x03")
        assert top.ended() == 0


def test_without_a_hotseat_it_connects_until_there_is_one() -> None:
    with terminal("--url", "http://127.0.0.1:1", "top") as top:
        top.shows("connecting…  no hotseat answers at http://127.0.0.1:1")
        top.press("q")
        assert top.ended() == 0


def test_a_key_that_may_not_read_is_said(up: Up) -> None:
    hotseat = up(model("a"), options=("--api-key", "right"))
    with terminal("--url", hotseat.url, "--api-key", "wrong", "top") as top:
        assert top.ended() == 1
        eventually(lambda: b"give the key with --api-key" in top.raw)


# hotseat up --top -----------------------------------------------------------------------------------------------------


def _up(folder: Path, *options: str) -> tuple[Terminal, int]:
    """Start one, and return its port."""
    (folder / "models.yaml").write_text(json.dumps(model("a")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = ["up", "-f", str(folder / "models.yaml"), "--port", str(port), "--state-dir", str(folder / "state")]
    return Terminal(*args, "--cache-dir", str(folder / "cache"), "--top", *options), port


def _running(port: int) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/running") as answer:
        return json.load(answer)["running"]


def test_up_shows_it_in_its_own_terminal_and_stops_with_it(tmp_path: Path) -> None:
    top, port = _up(tmp_path)
    try:
        top.shows("▶ a")
        top.press("l")
        eventually(lambda: [row["state"] for row in _running(port)] == ["ready"])
        log = tmp_path / "state/up.log"
        assert "hotseat is up at" in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600
        assert "hotseat is up at" not in top.raw.decode()
        top.press("q")
        assert top.ended() == 0
        assert "Requests in flight finish." in top.raw.decode()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)), "it does not listen any more"
    finally:
        top.close()


def test_up_with_keys_and_tls_is_reached_by_the_picture(tmp_path: Path) -> None:
    top, _ = _up(tmp_path, "--api-key", "k", "--tls-self-signed")
    try:
        top.shows("▶ a")
        top.press("q")
        assert top.ended() == 0
    finally:
        top.close()


def test_up_that_is_killed_takes_hotseat_with_it(tmp_path: Path) -> None:
    top, port = _up(tmp_path)
    try:
        top.shows("▶ a")
        os.kill(top.process.pid, signal.SIGKILL)

        def refused() -> bool:
            with socket.socket() as probe:
                return bool(probe.connect_ex(("127.0.0.1", port)))

        eventually(refused)
    finally:
        top.close()


def test_up_that_fails_prints_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/logs").write_text("not a directory")
    top, _ = _up(tmp_path)
    try:
        assert top.ended() == 1
        eventually(lambda: b"hotseat has ended with status" in top.raw)
    finally:
        top.close()
