"""A real Prometheus of the test's own, which scrapes quickly and evaluates the alert rules with short windows."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.embedded.harness import PATIENCE, Call, eventually

ROOT = Path(__file__).parents[1]
RULES = ROOT / "monitoring/rules/rules.yaml"
PROGRAM = shutil.which("prometheus")
WINDOW = "30s"  # of rules and queries, in place of minutes


def quick_rules() -> str:
    """Return the alert rules with shorter times, and unchanged otherwise.

    Ranges and offsets are WINDOW, and what must hold for minutes has to hold for 4 seconds. Thresholds stay.
    """
    text = re.sub(r"\[\d+m\]", f"[{WINDOW}]", RULES.read_text())
    text = re.sub(r"offset \d+m", f"offset {WINDOW}", text)
    return re.sub(r"(?m)^( +for:) \d+m$", r"\1 4s", text)


class Prometheus:
    """One Prometheus. `targets` are its scrape configs."""

    def __init__(self, folder: Path, targets: list[dict[str, Any]]) -> None:
        (folder / "rules.yaml").write_text(quick_rules())
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": targets,
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "prometheus.log").open("w")
        command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
        self._process = subprocess.Popen(
            [*command, f"--web.listen-address={self.address}"], stdout=self._log, stderr=self._log
        )
        eventually(self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return Call(self.address, "GET", "/-/ready").answer().status == 200
        except OSError:
            return False

    def get(self, path: str, **parameters: object) -> Any:
        """Return the data of an answer of its API, which is no error."""
        answer = Call(self.address, "GET", f"/api/v1/{path}?{urlencode(parameters)}").answer()
        assert answer.status == 200, f"{parameters}: {answer.body.decode()}"
        told = json.loads(answer.body)
        assert told["status"] == "success"
        assert not told.get("warnings")
        return told["data"]

    def query(self, expression: str, **parameters: object) -> list[Any]:
        """Return the series of an instant query."""
        result: list[Any] = self.get("query", query=expression, **parameters)["result"]
        return result

    def has_data(self, target: dict[str, Any]) -> bool:
        """Evaluate the query of a panel as Grafana does, in the last two minutes. Return whether it has any series."""
        query, now = target["expr"], time.time()
        for name, value in {"namespace": ".*", "model": ".*", "__rate_interval": WINDOW, "__range": "1m"}.items():
            query = query.replace(f"${name}", value)
        assert "$" not in query
        if target["instant"]:
            return bool(self.query(query, time=now))
        return bool(self.get("query_range", query=query, start=now - 120, end=now, step=1)["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules with their health and their alerts."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        self._log.close()
