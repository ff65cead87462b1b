"""HTTP client of a router for the switcher: CloudEvents through the Broker, or direct requests."""

import json
import logging
import time
import uuid
from typing import Any

import urllib3

from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.control.codec import sign
from hotseat.core.errors import Unavailable
from hotseat.core.events import event_type

log = logging.getLogger(__name__)

SIGNATURE = "signature"  # extension attribute of our events
_TIMEOUT = 2.0  # seconds for one delivery


class SwitcherClient:
    """Sends snapshots and commands. An empty `broker` or `switcher` is not used."""

    def __init__(self, broker: str, switcher: str, key: bytes) -> None:
        self.broker = broker
        self.switcher = switcher.rstrip("/")
        self._key = key
        self._http = urllib3.PoolManager(retries=False, maxsize=8)

    def event_headers(self, workspace: str, kind: str, data: Json) -> dict[str, str]:
        """Return the HTTP headers of a signed event."""
        return {
            "Content-Type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": uuid.uuid4().hex,
            "ce-source": f"/workspaces/{workspace}",
            "ce-type": event_type(kind),
            "ce-time": format_time(time.time()),
            f"ce-{SIGNATURE}": sign(self._key, data),
        }

    def through_broker(self, workspace: str, kind: str, data: Json) -> bool:
        """Publish an event. Return whether the Broker accepted it."""
        return self._post(self.broker, workspace, kind, data)

    def directly(self, workspace: str, kind: str, data: Json) -> bool:
        """Send an event to the switcher. Return whether it accepted it."""
        return self._post(f"{self.switcher}/demand", workspace, kind, data)

    def send_command(self, command: Json, timeout: float | None) -> tuple[int, Json]:
        """Send a command to the switcher and return status and body of its answer.

        Raise Unavailable if it cannot be reached.
        """
        headers = {"Content-Type": "application/json", "X-Hotseat-Signature": sign(self._key, command)}
        limit = urllib3.Timeout(connect=_TIMEOUT, read=None if timeout is None else timeout + _TIMEOUT)
        try:
            response = self._http.request(
                "POST", f"{self.switcher}/orders", body=json.dumps(command), headers=headers, timeout=limit
            )
            answer: Any = json.loads(response.data or b"{}")
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            message = f"the switcher cannot be reached: {error}"
            raise Unavailable(message, code="switcher_unreachable", retry_after=5.0) from error
        return response.status, answer

    def _post(self, url: str, workspace: str, kind: str, data: Json) -> bool:
        headers = self.event_headers(workspace, kind, data)
        try:
            response = self._http.request("POST", url, body=json.dumps(data), headers=headers, timeout=_TIMEOUT)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            log.debug("%s: %s", url, error)
            return False
        return response.status < 300  # noqa: PLR2004
