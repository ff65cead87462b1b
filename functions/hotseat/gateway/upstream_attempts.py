"""The servers that one request for an external Model is sent to, one after the other, until one answers it."""

import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from math import isfinite

from hotseat.control.upstream_servers import UpstreamServer, UpstreamServers
from hotseat.core.backoff import backoff
from hotseat.core.errors import (
    HotseatError,
    Unavailable,
    Unreachable,
    UpstreamFailed,
    UpstreamRejected,
    UpstreamTimeout,
)
from hotseat.gateway.errors import api_kind
from hotseat.gateway.relay.heads import ResponseHead

_SERVER_ERROR = 500
_RETRY_AFTER = re.compile(rb"(?im)^retry-after:[ \t]*([^\r\n]*?)[ \t]*\r?$")


class UpstreamAttempts:
    """The attempts of one request. `server` is that of the last one. `random` returns a number from 0 to below 1."""

    __slots__ = ("_counted", "_on_trial", "_random", "_tried", "_under_way", "retries", "server", "servers")

    def __init__(self, servers: UpstreamServers, random: Callable[[], float] = random.random) -> None:
        self.servers = servers
        self.server = servers.servers[0]
        self.retries = 0
        self._counted = 0  # of them, those that count against the number of attempts
        self._random = random
        self._tried: set[UpstreamServer] = set()
        self._under_way = self._on_trial = False  # the outcome of the attempt, and of a trial, has to be told

    def choose(self, now: float) -> bool:
        """Choose the server of the next attempt. Return False if none can be sent a request."""
        found = self.servers.find(now, self._tried)
        if found is None and self._tried:
            self._tried.clear()
            found = self.servers.find(now)
        if found is None:
            return False
        self.end()
        self.server, self._under_way, self._on_trial = found, True, found.breaker.begin()
        return True

    def none_left(self, now: float) -> HotseatError:
        """Return the error for the client while no server can be sent a request."""
        rest = self.servers.allows_at(now) - now
        message = f"No server of this model can be sent a request now. {self.servers.problem()}"
        return Unavailable(message, code="upstream_unavailable", retry_after=max(1.0, rest) if isfinite(rest) else 5.0)

    def answered(self, head: ResponseHead, now: float, rest: float, *, repeatable: bool) -> UpstreamRejected | None:
        """Handle the head of an answer. Return an error if it has a status after which the request is sent again.

        REST is how long the request may still take in seconds; inf: it has no limit. `pause` of the error is None if there is no
        further attempt: then the answer is for the client, unless another Model answers.
        """
        if head.code not in self.servers.retries.statuses:
            self._succeed()
            return None
        text = f"The server answered with status {head.code}."
        if head.code >= _SERVER_ERROR:
            self._fail(text)
        else:
            self._succeed()
        if not repeatable:
            return None
        error = UpstreamRejected(text, retry_after=_retry_after(head))
        error.pause = self._pause(error, now, rest, f"status_{head.code}")
        return error

    def failed(self, error: HotseatError, now: float, rest: float, *, repeatable: bool) -> float | None:
        """Handle the failure of an attempt. Return the seconds after which the request is sent again. None: it is not.

        REPEATABLE: it may be sent again although a server may have begun to answer it.
        """
        if isinstance(error, UpstreamRejected):
            return error.pause
        if not isinstance(error, UpstreamFailed) or error.code is not None:  # such as a key that is missing here
            return None
        unreachable = isinstance(error, Unreachable)
        if not (unreachable and self.servers.holds):
            self._fail(error.message)
        if unreachable:
            self._tried.add(self.server)
            if self.servers.find(now, self._tried) is not None:
                self._count("unreachable")
                return 0.0
        if not repeatable or (isinstance(error, UpstreamTimeout) and not self._retries(api_kind(error).status)):
            return None
        reason = "unreachable" if unreachable else "timeout" if isinstance(error, UpstreamTimeout) else "disconnected"
        return self._pause(error, now, rest, reason)

    def end(self) -> None:
        """Forget an attempt whose outcome is not known."""
        if self._on_trial:
            self.server.breaker.abandoned()
        self._under_way = self._on_trial = False

    def _retries(self, status: int) -> bool:
        return status in self.servers.retries.statuses

    def _pause(self, error: HotseatError, now: float, rest: float, reason: str) -> float | None:
        """Return the seconds until the request is sent again, and count that. None: it is not."""
        policy = self.servers.retries
        if self._counted >= policy.attempts:
            return None
        self._tried.add(self.server)
        pause = 0.0
        if self.servers.find(now, self._tried) is None:
            pause = backoff(self._counted + 1, policy.backoff, policy.max_backoff, self._random)
            if error.retry_after is not None:
                if error.retry_after > policy.max_backoff:
                    return None
                pause = max(pause, error.retry_after)
            if pause >= rest or self.servers.allows_at(now + pause) > now + pause:
                return None
        self._counted += 1
        self._count(reason)
        return pause

    def _count(self, reason: str) -> None:
        self.retries += 1
        self.servers.on_retry(reason)

    def _succeed(self) -> None:
        self._under_way = self._on_trial = False
        self.servers.succeeded(self.server)

    def _fail(self, problem: str) -> None:
        """Note the failure, once for each attempt."""
        if self._under_way:
            self.servers.failed(self.server, problem, trial=self._on_trial)
        self._under_way = self._on_trial = False


def _retry_after(head: ResponseHead) -> float | None:
    """Return the seconds of a Retry-After, which can be a date. None: there is none that can be read."""
    found = _RETRY_AFTER.search(head.fields)
    if found is None:
        return None
    text = found[1].decode("latin-1")
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
