"""The commands about a running hotseat: what they ask, what they print, how they end."""

import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from hotseat import __version__
from hotseat.cli.main import COMMANDS, main
from tests.unit.cli.fake_hotseat import FakeHotseat, error, model, sse

OWN = [name for name, (module, _) in COMMANDS.items() if module in {"hotseat.cli.commands", "hotseat.cli.chat"}]


@pytest.fixture
def fake():
    return FakeHotseat()


@pytest.fixture
def hotseat(fake):
    """Run a command against the fake server."""
    with fake.serving() as url:
        yield lambda *args, **kwargs: CliRunner().invoke(main, ["--url", url, *args], **kwargs)


def ago(**amount):
    return (datetime.now(UTC) - timedelta(**amount, milliseconds=100)).isoformat()


def rows(text):
    """Cells of a table; columns are at least three spaces apart."""
    return [re.split(r" {3,}", line) for line in text.splitlines()]


@pytest.fixture
def models(fake):
    status = {"value": "loaded", "state": "ready", "since": ago(minutes=3, seconds=12), "message": "", "progress": None}
    fetching = status | {"value": "loading", "state": "fetching", "since": None, "progress": {"done": 45, "total": 100}}
    fake.answers["GET /v1/models"] = {
        "object": "list",
        "data": [
            model("gemma", names=["gemma", "gpt-4o", "g"], description="Small talk", status=status),
            model("qwen", status=fetching),
        ],
    }


def test_models_are_listed_in_plain_columns(hotseat, models):
    assert rows(hotseat("models").stdout) == [
        ["NAME", "ENGINE", "STATE", "AGE", "WORKSPACE", "OTHER-NAMES", "DESCRIPTION"],
        ["gemma", "llamacpp", "ready", "3m12s", "default", "gpt-4o,g", "Small talk"],
        ["qwen", "llamacpp", "fetching(45%)", "-", "default", "-", "-"],
    ]


def test_models_for_programs(fake, hotseat, models):
    assert hotseat("models", "-o", "name").stdout == "gemma\nqwen\n"
    assert json.loads(hotseat("models", "-o", "json").stdout) == fake.answers["GET /v1/models"]


def test_no_models_is_a_table_without_rows_and_no_name(fake, hotseat):
    fake.answers["GET /v1/models"] = {"object": "list", "data": []}
    assert hotseat("models").stdout.startswith("NAME")
    assert hotseat("models", "-o", "name").stdout == ""


def test_what_a_name_stands_for_is_shown(fake, hotseat):
    status = {"value": "loaded", "state": "ready", "since": None, "message": "", "progress": None}
    names = [
        {
            "id": "any",
            "engine": "virtual",
            "strategy": "Warm",
            "workspace": "default",
            "names": ["any"],
            "status": status,
        },
        {
            "id": "llm",
            "engine": "profile",
            "profile": "coding",
            "workspace": "default",
            "names": ["llm"],
            "status": status,
        },
    ]
    fake.answers["GET /v1/models"] = {"object": "list", "data": names}
    assert [row[:3] for row in rows(hotseat("models").stdout)[1:]] == [
        ["any", "virtual(Warm)", "ready"],
        ["llm", "profile(coding)", "ready"],
    ]


PROFILES = {
    "active": "coding",
    "profiles": [
        {"name": "coding", "workspace": "default", "active": True, "pins": {"llm": "qwen", "image": ""}},
        {"name": "writing", "workspace": "default", "active": False, "pins": {}},
    ],
}


def test_profiles_are_listed_and_switched(fake, hotseat):
    fake.answers["GET /api/profiles"] = PROFILES
    fake.answers["PUT /api/profiles/active"] = PROFILES
    table = [
        ["PROFILE", "WORKSPACE", "STATE", "NAMES"],
        ["coding", "default", "active", "llm=qwen, image=(off)"],
        ["writing", "default", "-", "-"],
    ]
    assert rows(hotseat("profile").stdout) == table
    assert hotseat("profile", "-o", "name").stdout == "coding\nwriting\n"
    for arguments, body in (
        (["coding"], {"name": "coding"}),
        (["--none"], {"name": None}),
        (["coding", "--workspace", "lab"], {"name": "coding", "workspace": "lab"}),
    ):
        assert rows(hotseat("profile", *arguments).stdout) == table
        assert fake.last.json == body
    for arguments in (["coding", "--none"], ["--workspace", "lab"]):
        assert hotseat("profile", *arguments).exit_code == 2


def test_a_profile_on_a_cluster_is_switched_in_its_document(fake, hotseat):
    fake.answers["PUT /api/profiles/active"] = error(405, "set spec.activeProfile", "method_not_allowed")
    refused = hotseat("profile", "coding")
    assert (refused.exit_code, "set spec.activeProfile" in refused.stderr) == (1, True)


@pytest.fixture
def running(fake):
    space = {"epoch": 4, "capacity": {"gpus": 2, "acceleratorMemory": None}, "gpus": 1, "effective_max_wait": 30.0}
    fake.answers["GET /running"] = {
        "running": [
            {
                "model": "qwen", "state": "draining", "since": ago(seconds=5), "address": "http://127.0.0.1:5801",
                "workspace": "default", "instance": "default/4", "epoch": 4, "in_flight": 2, "gpus": 1,
                "devices": ["0", "1"],
            }
        ],
        "waiting": [
            {
                "model": "gemma", "count": 14, "oldest_seconds": 1.5, "rate": 0.4567,
                "tenants": {"key-1": 1, "key-2": 12, "": 1}, "reason": "Draining",
                "message": "qwen drains for gemma: it serves 2 requests in flight first",
                "expected_at": ago(seconds=-72.9), "behind": ["qwen"],
            },
            {"model": "phi", "count": 3, "oldest_seconds": 0.1, "rate": None, "tenants": {}},
        ],
        "workspaces": [{"name": "default", **space}, {"name": "spare", **space}],
    }  # fmt: skip


def test_ps_shows_who_holds_the_accelerator_and_who_waits(hotseat, running):
    assert rows(hotseat("ps").stdout) == [
        ["WORKSPACE", "MODEL", "STATE", "GPUS", "DEVICES", "IN-FLIGHT", "AGE", "ADDRESS"],
        ["default", "qwen", "draining", "1/1", "0,1", "2", "5s", "http://127.0.0.1:5801"],
        ["spare", "-", "free", "0/1", "-", "0", "-", "-"],
        [""],
        ["WAITING", "COUNT", "OLDEST", "REASON", "EXPECTED", "RATE", "TENANTS"],
        ["gemma", "14", "1s", "Draining", "in 1m12s", "0.46/s", "key-2:12,-:1,key-1:1"],
        ["phi", "3", "0s", "-", "-", "-", "-"],
    ]
    assert hotseat("ps", "-o", "name").stdout == "qwen\n"


def test_ps_wide_says_in_a_sentence_why_requests_wait(hotseat, running):
    wide = hotseat("ps", "-o", "wide").stdout
    assert "WHY" in wide
    assert "qwen drains for gemma: it serves 2 requests in flight first" in wide


def test_ps_wide_tells_how_each_engine_came_to_its_state(fake, hotseat, running):
    steps = [
        {"at": ago(seconds=70), "from": None, "to": "loading", "why": "started"},
        {"at": ago(seconds=9), "from": "loading", "to": "ready", "why": "ready"},
    ]
    fake.answers["GET /running"]["running"][0]["story"] = steps
    wide = hotseat("ps", "-o", "wide").stdout
    assert rows(wide)[:3] == rows(hotseat("ps").stdout)[:3]
    assert rows(wide)[4:7] == [
        ["INSTANCE", "AGE", "FROM", "TO", "WHY"],
        ["default/4", "1m10s", "-", "loading", "started"],
        ["default/4", "9s", "loading", "ready", "ready"],
    ]
    del fake.answers["GET /running"]["running"][0]["story"]  # of an earlier version
    assert "loading" not in hotseat("ps", "-o", "wide").stdout


def test_ps_shows_parked_models_apart(fake, hotseat, running):
    parked = {"model": "llama", "workspace": "default", "since": ago(seconds=70), "memory": 3 * 2**29}
    fake.answers["GET /running"] |= {"waiting": []}
    phi = parked | {"model": "phi", "memory": None, "keeps_prompts": True}
    gemma = parked | {"model": "gemma", "keeps_prompts": False}
    fake.answers["GET /running"]["parked"] = [parked, phi, gemma]
    assert rows(hotseat("ps").stdout)[3:] == [
        [""],
        ["PARKED", "WORKSPACE", "MEMORY", "AGE", "PROMPTS"],
        ["llama", "default", "1.5Gi", "1m10s", "-"],
        ["phi", "default", "-", "1m10s", "kept"],
        ["gemma", "default", "1.5Gi", "1m10s", "lost"],
    ]
    assert hotseat("ps", "-o", "name").stdout == "qwen\n"


def test_switches_show_their_phases(fake, hotseat):
    fake.answers["GET /api/switches"] = {
        "switches": [
            {
                "id": "default/6", "workspace": "default", "from": [], "to": "qwen", "reason": "demand",
                "outcome": "failed", "started_at": ago(hours=2), "phases": {"wait": 0, "load": 300, "total": 300},
                "message": "",
            },
            {
                "id": "default/7", "workspace": "default", "from": ["qwen"], "to": "gemma", "reason": "demand",
                "outcome": "completed", "started_at": ago(seconds=40), "message": "",
                "phases": {"wait": 0.004, "drain": 0.01, "release": 0.12, "load": 12.31, "total": 12.44},
            },
        ]
    }  # fmt: skip
    assert rows(hotseat("switches").stdout) == [
        ["FROM", "TO", "REASON", "OUTCOME", "WAIT", "DRAIN", "RELEASE", "LOAD", "TOTAL", "AGE"],
        ["-", "qwen", "demand", "failed", "0.00s", "-", "-", "5m", "5m", "2h"],
        ["qwen", "gemma", "demand", "completed", "0.00s", "0.01s", "0.12s", "12.3s", "12.4s", "40s"],
    ]
    assert hotseat("switches", "-o", "name").stdout == "default/6\ndefault/7\n"


def test_switches_show_prompt_caches_if_there_are_any(fake, hotseat):
    phases = {"wait": 0, "drain": 0.01, "save": 0.04, "release": 0.1, "load": 1.3, "restore": 0.02, "total": 1.5}
    row = {"id": "w/1", "from": ["qwen"], "to": "gemma", "reason": "demand", "outcome": "completed", "phases": phases}
    more = {"started_at": ago(seconds=40), "saved": 48 * 2**20, "restored": 0}
    fake.answers["GET /api/switches"] = {"switches": [row | more]}
    assert rows(hotseat("switches").stdout) == [
        ["FROM", "TO", "REASON", "OUTCOME", "WAIT", "DRAIN", "SAVE", "RELEASE", "LOAD", "RESTORE", "TOTAL", "SAVED", "RESTORED", "AGE"],
        ["qwen", "gemma", "demand", "completed", "0.00s", "0.01s", "0.04s", "0.10s", "1.30s", "0.02s", "1.50s", "48Mi", "-", "40s"],
    ]  # fmt: skip


PROMPTS = {"model": "gemma", "workspace": "w", "slots": 2, "tokens": 6024, "bytes": 48 * 2**20}


ENTRY = {
    "source": "hf://o/r/a.gguf",
    "state": "complete",
    "bytes": 2**30,
    "path": "/cache/a",
    "models": ["qwen", "glm"],
    "in_use": True,
}


def test_cache_lists_weights_and_prompts_and_clears_prompts(fake, hotseat):
    prompts = [PROMPTS | {"used_at": ago(seconds=70)}]
    fake.answers["GET /api/cache"] = {"entries": [ENTRY | {"used_at": ago(seconds=70)}], "prompts": prompts}
    assert rows(hotseat("cache").stdout) == [
        ["WEIGHTS", "STATE", "SIZE", "USED", "MODELS", "PATH"],
        ["hf://o/r/a.gguf", "complete", "1Gi", "now", "qwen,glm", "/cache/a"],
        [""],
        ["PROMPTS", "WORKSPACE", "SLOTS", "TOKENS", "SIZE", "AGE"],
        ["gemma", "w", "2", "6024", "48Mi", "1m10s"],
    ]
    fake.answers["POST /api/cache/clear"] = {"prompts": prompts}
    assert hotseat("cache", "--clear", "Gemma").stdout == "deleted 48Mi\n"
    assert fake.last.query == {"model": "Gemma"}
    fake.answers["POST /api/cache/clear"] = {"prompts": []}
    assert hotseat("cache", "--clear").stdout == "deleted nothing\n"
    assert fake.last.query == {}
    assert "--clear only" in hotseat("cache", "gemma").stderr


def test_ps_shows_fetches_with_their_rate(fake, hotseat, running):
    row = {"model": "phi", "workspace": "default", "done": 2**30, "total": 2**31, "rate": 2**26, "remaining": 16}
    fake.answers["GET /running"]["fetching"] = [row]
    text = hotseat("ps").stdout
    assert "FETCHING   WORKSPACE   PROGRESS\nphi        default     50%  1Gi of 2Gi  64Mi/s  16s left\n" in text


def test_ps_wide_shows_saved_prompts(fake, hotseat, running):
    fake.answers["GET /running"]["prompts"] = [PROMPTS | {"used_at": ago(seconds=70)}]
    assert ["gemma", "w", "2", "6024", "48Mi", "1m10s"] in rows(hotseat("ps", "-o", "wide").stdout)
    assert "PROMPTS" not in hotseat("ps").stdout


def test_load_waits_until_it_is_done(fake, hotseat):
    fake.answers["POST /api/models/gpt-4o/load"] = {"model": "gemma", "state": "ready"}
    assert hotseat("load", "gpt-4o").stdout == "gemma ready\n"
    assert fake.last.query == {"wait": "true"}


def test_load_need_not_wait(fake, hotseat):
    fake.answers["POST /api/models/gemma/load"] = (202, {"model": "gemma", "state": "loading"}, {})
    assert hotseat("load", "gemma", "--no-wait").stdout == "gemma loading\n"
    assert fake.last.query == {"wait": "false"}


def test_unload_one_or_all(fake, hotseat):
    fake.answers["POST /api/models/gemma/unload"] = {"model": "gemma", "state": "unloaded"}
    fake.answers["POST /api/models/unload"] = {}
    assert hotseat("unload", "gemma").stdout == "gemma unloaded\n"
    assert hotseat("unload", "--all").stdout == "all models unloaded\n"
    assert hotseat("unload", "--all", "--no-wait").stdout == "all models unloading\n"


def test_park_says_how_long_it_took_and_what_it_freed(fake, hotseat):
    parked = {"model": "gemma", "state": "parked", "seconds": 0.42, "gpus": 1, "accelerator_memory": None}
    fake.answers["POST /api/models/gemma/park"] = {**parked, "host_memory": 2**30}
    assert hotseat("park", "gemma").stdout == "gemma parked in 0.42s; freed 1 GPU, holds 1Gi of host memory\n"
    assert fake.last.query == {"wait": "true"}
    more = {"gpus": 2, "accelerator_memory": 40 * 2**30, "host_memory": None}
    fake.answers["POST /api/models/gemma/park"] = parked | more
    assert hotseat("park", "gemma").stdout == "gemma parked in 0.42s; freed 2 GPUs (40Gi)\n"
    fake.answers["POST /api/models/gemma/park"] = parked | {"state": "unloaded"} | more
    assert "it was stopped instead" in hotseat("park", "gemma").stdout
    fake.answers["POST /api/models/gemma/park"] = parked | {"state": "ready"} | more
    assert hotseat("park", "gemma", "--no-wait").stdout == "gemma ready\n"
    fake.answers["POST /api/models/qwen/park"] = error(409, "qwen cannot be parked: its release is Stop.", "conflict")
    assert "cannot be parked" in hotseat("park", "qwen").stderr


def test_pin_waits_for_the_load_and_unpin_for_nothing(fake, hotseat):
    fake.answers["POST /api/models/gemma/pin"] = {"model": "gemma", "state": "ready", "pinned": True}
    fake.answers["POST /api/models/gemma/unpin"] = {"model": "gemma", "state": "ready", "pinned": False}
    assert hotseat("pin", "gemma").stdout == "gemma ready, pinned\n"
    assert fake.last.query == {"wait": "true"}
    assert hotseat("unpin", "gemma").stdout == "gemma ready\n"
    fake.answers["POST /api/models/qwen/pin"] = error(503, "qwen does not fit beside gemma: pinned.", "pinned")
    refused = hotseat("pin", "qwen", "--no-wait")
    assert refused.exit_code == 1
    assert "qwen does not fit beside gemma" in refused.stderr


def test_ps_and_models_mark_what_is_pinned(fake, hotseat, running, models):
    fake.answers["GET /running"]["running"][0] |= {"state": "ready", "pinned": True}
    assert rows(hotseat("ps").stdout)[1][2] == "ready,pinned"
    fake.answers["GET /v1/models"]["data"][0]["status"]["pinned"] = True
    assert rows(hotseat("models").stdout)[1][2] == "ready,pinned"


@pytest.mark.parametrize("args", [["unload"], ["unload", "gemma", "--all"], ["logs"], ["logs", "gemma", "-n", "-1"]])
def test_a_command_that_makes_no_sense_asks_nothing(fake, hotseat, args):
    result = hotseat(*args)
    assert (result.exit_code, fake.requests) == (2, [])
    assert "Usage: " in result.stderr


def test_a_name_with_a_slash_reaches_the_server_as_it_is(fake, hotseat):
    fake.answers["POST /api/models/meta-llama/Llama-3.1-8B/load"] = {"model": "llama", "state": "ready"}
    assert hotseat("load", "meta-llama/Llama-3.1-8B").exit_code == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("two words", "two%20words"),
        ("/a//b", "%2Fa%2F%2Fb"),
        ("..", "%2E%2E"),
        ("a/./b", "a%2F%2E%2Fb"),
        ("模", "%E6%A8%A1"),
    ],
)
def test_any_name_reaches_the_server_whole(fake, hotseat, name, path):
    fake.answers[f"POST /api/models/{path}/load"] = {"model": name, "state": "ready"}
    assert hotseat("load", name).stdout == f"{name} ready\n"


def test_names_cannot_command_the_terminal_and_wide_ones_keep_the_columns(fake, hotseat):
    names = ["模型-7b", "a\x1b[2J\nb"]
    fake.answers["GET /v1/models"] = {"data": [model(name, names=[name, "x"]) for name in names]}
    head, wide, odd = hotseat("models").stdout.splitlines()
    assert odd.startswith(r"a\x1b[2J\nb   llamacpp")
    assert head.index("ENGINE") == odd.index("llamacpp") == wide.index("llamacpp") + 2, (
        "two characters take two columns"
    )


def test_logs_are_printed_as_they_are(fake, hotseat):
    fake.answers["GET /api/models/gemma/logs"] = lambda request: (
        [b"data: loading\n\n", b"data: 100 %\n\n"] if "follow" in request.query else "loading\n100 %\n"
    )
    assert hotseat("logs", "gemma").stdout == "loading\n100 %\n"
    assert fake.last.query == {"lines": "100"}
    assert hotseat("logs", "gemma", "-f", "-n", "5").stdout == "loading\n100 %\n"
    assert fake.last.query == {"lines": "5", "follow": "true"}


ODD = "a\x1b]0;title\x07 \x1b[2J\x9b1A\rb\tü 🙂"
ESCAPED = r"a\x1b]0;title\x07 \x1b[2J\x9b1Ab" + "\tü 🙂"


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal."""
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: self.name == "<stdout>", raising=False)


def odd_answers(fake):
    fake.answers["GET /api/models/gemma/logs"] = ODD.replace("\r", "") + "\n"
    event = {"type": "dev.hotseat.model.failed.v1", "subject": "gemma", "data": {"reason": "Exited", "message": ODD}}
    fake.answers["GET /api/events"] = sse(event)
    delta = {"choices": [{"index": 0, "delta": {"content": ODD, "reasoning_content": ODD}, "finish_reason": "stop"}]}
    fake.answers["POST /v1/chat/completions"] = [*sse(delta), b"data: [DONE]\n\n"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("args", [["logs", "gemma"], ["events", "--no-follow"], ["chat", "gemma", "Hi"]])
def test_engines_cannot_command_the_terminal(fake, hotseat, args):
    odd_answers(fake)
    shown = hotseat(*args).stdout
    assert ESCAPED in shown
    assert not set(shown.replace("\x1b[2m", "").replace("\x1b[0m", "")) & set("\x1b\x07\x9b\r"), "but our own style"


@pytest.mark.usefixtures("terminal")
def test_json_on_a_terminal_has_no_control_characters_either(fake, hotseat):
    odd_answers(fake)
    assert not set(hotseat("events", "--no-follow", "-o", "json").stdout) & set("\x1b\x07\x9b\r")


def test_programs_get_what_an_engine_wrote(fake, hotseat):
    """But for styles, which click leaves out."""
    odd_answers(fake)
    plain = click.unstyle(ODD).replace("\r", "") + "\n"
    assert hotseat("logs", "gemma").stdout == plain
    assert hotseat("chat", "gemma", "Hi").stdout.replace("\r", "") == plain
    assert json.loads(hotseat("events", "--no-follow", "-o", "json").stdout)["data"]["message"] == ODD


def test_an_error_with_output_of_an_engine_commands_no_terminal(fake, hotseat):
    fake.answers["POST /api/models/gemma/load"] = error(503, f"it failed:\n{ODD}", "model_failed")
    assert f"it failed:\n{ESCAPED}" in hotseat("load", "gemma").stderr


def test_events_are_lines_for_people_or_for_programs(fake, hotseat):
    event = {
        "specversion": "1.0", "id": "12", "type": "dev.hotseat.model.ready.v1", "source": "/workspaces/default",
        "subject": "gemma", "time": "2026-01-02T03:04:05Z", "epoch": 3, "data": {"instance": "default/3", "seconds": 1.305},
    }  # fmt: skip
    fake.answers["GET /api/events"] = sse(event)
    text = hotseat("events", "--no-follow").stdout
    assert text.endswith("  model.ready       gemma   after 1.30s\n")
    assert text.count("\n") == 1
    assert json.loads(hotseat("events", "-o", "json").stdout) == event
    assert fake.last.query == {"history": "10"}


def test_a_refused_command_prints_the_reason_and_ends_with_1(fake, hotseat):
    fake.answers["POST /api/models/gemma/load"] = error(503, "gemma did not get ready.", "load_failed", Retry_After="3")
    result = hotseat("load", "gemma")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: gemma did not get ready; try again in 3 s\n"


def test_the_server_is_named_by_option_before_or_after_the_command_or_by_the_environment(fake):
    fake.answers["GET /v1/models"] = {"object": "list", "data": [model("gemma")]}
    nowhere = "http://127.0.0.1:1"
    run = CliRunner().invoke
    with fake.serving() as url:
        for args, env in [
            (["--url", url, "models"], {"HOTSEAT_URL": nowhere}),
            (["models", "--url", url], {"HOTSEAT_URL": nowhere}),
            (["--url", nowhere, "models", "--url", url], {}),
            (["models"], {"HOTSEAT_URL": url, "HOTSEAT_API_KEY": "k"}),
        ]:
            assert run(main, [*args, "-o", "name"], env=env).stdout == "gemma\n"
    assert [request.headers["Authorization"] for request in fake.requests] == [None, None, None, "Bearer k"]


def test_an_address_that_is_none_is_a_usage_error():
    result = CliRunner().invoke(main, ["--url", "ftp://there", "ps"])
    assert result.exit_code == 2
    assert "--url or HOTSEAT_URL: ftp://there is not an http:// or https:// URL" in result.stderr


def test_interrupting_ends_quietly_with_130(hotseat, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hotseat.cli.client.Client.get", interrupt)
    result = hotseat("ps")
    assert (result.exit_code, result.output) == (130, "")


def test_a_reader_that_has_enough_is_no_error(fake):
    fake.answers["GET /api/models/gemma/logs"] = "line\n" * 100_000
    with fake.serving() as url:
        program = "from hotseat.cli.main import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--url", url, "logs", "gemma"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        process.wait(10)


def test_version():
    run = CliRunner().invoke
    assert run(main, ["version"]).stdout == run(main, ["--version"]).stdout == f"hotseat {__version__}\n"
    assert json.loads(run(main, ["version", "-o", "json"]).stdout)["version"] == __version__


def test_a_quick_command_does_not_wait_for_slow_imports():
    program = (
        "import sys; from hotseat.cli.main import main; main(['version'], standalone_mode=False);"
        "print({name.partition('.')[0] for name in sys.modules} & {'flask', 'gunicorn', 'pydantic', 'urllib3', 'rich', 'yaml'})"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "set()"


def test_a_misspelt_command_is_answered_with_the_near_one():
    result = CliRunner().invoke(main, ["swiches"])
    assert result.exit_code == 2
    assert "No such command 'swiches'. Did you mean switches?" in result.stderr


def test_the_overview_names_every_command_without_importing_them():
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert all(re.search(rf"^  {name} +\S", shown, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", OWN)
def test_each_example_in_the_help_is_a_command_line_that_parses(name):
    shown = CliRunner().invoke(main, [name, "--help"]).stdout
    assert re.search(r"^Examples?:$", shown, re.MULTILINE)
    command = main.get_command(click.Context(main), name)
    assert command.examples
    for example in command.examples:
        assert f"  {example}\n" in shown
        words = shlex.split(example.rpartition("| ")[2].partition(" <")[0])
        with main.make_context("hotseat", words[1:]) as ctx:
            found, sub, rest = main.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
            assert found == name
            sub.make_context(name, rest, parent=ctx)


def completions(words, incomplete):
    found = BashComplete(main, {}, "hotseat", "_HOTSEAT_COMPLETE").get_completions(words, incomplete)
    return [item.value for item in found]


def test_the_shell_completes_commands_and_models(fake, models, monkeypatch):
    assert completions([], "s") == ["switches", "schema", "simulate"]
    with fake.serving() as url:
        monkeypatch.setenv("HOTSEAT_URL", url)
        assert completions(["load"], "g") == ["gemma", "gpt-4o", "g"]
    assert completions(["load"], "g") == []  # nobody answers any more
