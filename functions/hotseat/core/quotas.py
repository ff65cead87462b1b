"""How many may wait: for one model, of one tenant, in the whole Workspace; and how large they may be together. Pure."""

from dataclasses import dataclass

from hotseat.core.drains import Drains, retry_after
from hotseat.core.units import format_bytes


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who waits at a router when another comes: for its model, of its tenant, and in all.

    `tenants`: how many have some waiting; `size`: bytes of all bodies, the other's too.
    """

    model: str
    tenant: str
    of_model: int
    of_tenant: int
    total: int
    tenants: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class Quotas:
    """Most that may wait; None: no bound of its own."""

    total: int = 0
    per_model: int | None = None
    per_tenant: int | None = None
    size: int | None = None  # bytes of their bodies

    def full(self, crowd: Crowd, drains: Drains, now: float) -> tuple[str, float] | None:
        """Say which bound lets no more wait, and in how many seconds to come again; None: there is room.

        The bound that concerns the fewest is named first. Those of a tenant are taken to be served at an equal share of the rate.
        """
        if self.per_tenant is not None and crowd.of_tenant >= self.per_tenant:
            share = (drains.rate(now) or 0.0) / max(1, crowd.tenants)
            whose = f"of the tenant {crowd.tenant}" if crowd.tenant else "without the name of a tenant"
            return _say(whose, "maxWaitingPerTenant", self.per_tenant), retry_after(crowd.of_tenant, share)
        if self.per_model is not None and crowd.of_model >= self.per_model:
            retry = retry_after(crowd.of_model, drains.rate(now, crowd.model))
            return _say(f"for {crowd.model}", "maxWaitingPerModel", self.per_model), retry
        if crowd.total >= self.total:
            return _say("", "maxWaiting", self.total), retry_after(crowd.total, drains.rate(now))
        if self.size is not None and crowd.size > self.size:
            message = "with this one, the bodies of requests that wait would take more memory than they may: "
            message += f"queue.maxWaitingBytes is {format_bytes(self.size)}"
            return message, retry_after(crowd.total, drains.rate(now))
        return None


def _say(whose: str, field: str, bound: int) -> str:
    return f"as many requests {whose}{' ' if whose else ''}wait already as may: queue.{field} is {bound}"
