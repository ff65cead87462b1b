"""Prewarming: a model is loaded without queued requests, because a fallback answered its requests. Pure.

Routers report such models as `wanted` (admission/fallback.py). Each counts as a load request, which
may evict a resident only from `may_evict_at` on: otherwise two such models would evict each other
forever. While refused clients of a model are expected again (admission/retries.py), it may do so as a
queued request may.
"""

from collections.abc import Callable, Iterable
from math import inf

from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import NOTHING
from hotseat.core.policy.groups import UNGROUPED
from hotseat.core.scheduler.availability import LoadRequest
from hotseat.core.scheduler.history import StepDurations
from hotseat.core.scheduler.instance import DRAINING_STATES, Instance
from hotseat.core.scheduler.parts import Parts


def load_request(parts: Parts, model: str, instance: Instance | None, now: float) -> LoadRequest | None:
    """Return the load request for a model, or one that stands for its prewarm requests, or None.

    `instance` is the instance of the model, if it has one.
    """
    request, since = parts.availability.load_requests.get(model), parts.demand.wanted(model)
    if since is None or (request and request.may_evict):
        return request
    if instance is not None or parts.history.promised(model) or parts.demand.retries_until(model) > now:
        return LoadRequest(since, may_evict=True)
    state = parts.state
    at = may_evict_at(
        since,
        state.max_wait(state.specs[model]),
        state.instances.values(),
        parts.history.durations,
        parts.demand.unused,
        grouped=state.groups.mentions,
    )
    if at < inf:
        parts.effects.wake_at(at)
    return LoadRequest(since, at <= now)


def may_evict_at(
    since: float,
    max_wait: float,
    instances: Iterable[Instance],
    durations: StepDurations,
    idle: Callable[[Instance], bool],
    *,
    grouped: Callable[[str], bool] = UNGROUPED.mentions,
) -> float:
    """Return the time from which a prewarm request of that age may evict a resident. inf: not in this state.

    An idle resident is evicted after it has been idle for as long as a reload takes. A busy one is evicted after `max_wait`
    seconds, and at least after the time that a reload takes.
    """
    residents = [h for h in instances if (h.spec.claim != NOTHING or grouped(h.model)) and not h.asleep]
    return min(
        (_evictable_at(h, since, max_wait, durations.of(h.model, parks=h.spec.park), idle(h)) for h in residents),
        default=-inf,
    )


def _evictable_at(instance: Instance, since: float, max_wait: float, reload: float, idle: bool) -> float:
    if instance.state in (*DRAINING_STATES, InstanceState.SAVING, InstanceState.RELEASING, InstanceState.PARKING):
        return -inf
    if instance.state is not InstanceState.READY or instance.ready_since is None:
        return inf  # a loading one serves its batch first, and an unproven one cannot be evicted
    busy_until = max(since, instance.ready_since) + max(max_wait, reload)
    idle_until = max(instance.last_used, instance.ready_since) + reload
    return min(busy_until, idle_until) if idle else busy_until
