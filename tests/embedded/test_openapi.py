"""The OpenAPI description is served, and the gateway answers as it says, whatever it is sent."""

import os
import subprocess
import sys

from .conftest import Up
from .harness import model

# Each must hold for any request. 500 is not in the description, so it fails the first.
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)
EXAMPLES = os.environ.get("HOTSEAT_TEST_SCHEMATHESIS", "15")  # requests for each operation and kind of data


def test_the_gateway_answers_as_its_description_says(up: Up) -> None:
    hotseat = up(model("a"), model("b"), options=("--api-key", "k"))
    hotseat.ask("a", headers={"Authorization": "Bearer k"})
    config = '[parameters]\n"path.name" = "a"\n"body.model" = "a"\n"query.wait" = "50ms"\n"query.follow" = "false"\n'
    (hotseat.folder / "schemathesis.toml").write_text(config)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{hotseat.address}/openapi.json"),
        *("-H", "Authorization: Bearer k", "--checks", ",".join(CHECKS), "--max-examples", EXAMPLES),
        *("--exclude-path-regex", "^/logs/stream"),  # these follow for ever
        *("--request-timeout", "30", "--no-color", "--phases", "examples,coverage,fuzzing"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=hotseat.folder)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    switches = hotseat.get("/api/switches", Authorization="Bearer k").json()["switches"]
    assert {each["to"] for each in switches} == {"a"}, "no bad request has loaded the other model"
