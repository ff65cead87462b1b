"""Limits on queued requests, per model, per tenant and per Workspace, and on the size of their bodies.

Pure.
"""

from dataclasses import dataclass

from hotseat.api.units import format_bytes
from hotseat.core.admission.service_rate import ServiceRates, retry_after


@dataclass(frozen=True, slots=True)
class QueueUsage:
    """The queued requests of a router when another request arrives: of its model, of its tenant, and in all.

    `tenants` counts the tenants with queued requests. `size` is the bytes of all bodies, with the
    new one.
    """

    model: str
    tenant: str
    of_model: int
    of_tenant: int
    total: int
    tenants: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits on queued requests at all routers together. None: no limit."""

    total: int = 0
    per_model: int | None = None
    per_tenant: int | None = None
    size: int | None = None  # bytes of their bodies
    routers: int = 1

    def check(self, usage: QueueUsage, rates: ServiceRates, now: float) -> tuple[str, float] | None:
        """Return the limit that is reached, as a message, and the seconds until a retry. None: there is none.

        The narrowest limit is named first. A tenant is assumed to be served at an equal share of the rate.
        """
        if self._reached(usage.of_tenant, self.per_tenant):
            rate = (rates.rate(now) or 0.0) / max(1, usage.tenants)
            whose = f" of tenant {usage.tenant}" if usage.tenant else " of requests without a tenant"
            return self._message(whose, "maxWaitingPerTenant", self.per_tenant), retry_after(usage.of_tenant, rate)
        if self._reached(usage.of_model, self.per_model):
            retry = retry_after(usage.of_model, rates.rate(now, usage.model))
            return self._message(f" for {usage.model}", "maxWaitingPerModel", self.per_model), retry
        if self._reached(usage.total, self.total):
            return self._message("", "maxWaiting", self.total), retry_after(usage.total, rates.rate(now))
        # A body that waits alone may use the whole limit: if it exceeds a share, no departure would ever admit it.
        if self.size is not None and usage.size > (per_router(self.size, self.routers) if usage.total else self.size):
            message = "the bodies of queued requests would exceed the memory limit"
            return f"{message} ({self._limit('maxWaitingBytes', format_bytes(self.size))})", retry_after(
                usage.total, rates.rate(now)
            )
        return None

    def _reached(self, count: int, bound: int | None) -> bool:
        return bound is not None and count >= per_router(bound, self.routers)

    def _message(self, whose: str, field: str, bound: int | None) -> str:
        return f"the queue{whose} is full ({self._limit(field, bound)})"

    def _limit(self, field: str, bound: int | str | None) -> str:
        shared = f", shared by {self.routers} routers" if self.routers > 1 else ""
        return f"queue.{field}: {bound}{shared}"


def per_router(bound: int, routers: int) -> int:
    """Return one router's share of a Workspace's limit. 0 stays 0.

    Rounded up, because a share of zero would reject every request. Together the routers may exceed the limit by at most one
    request each.
    """
    return -(-bound // routers)
