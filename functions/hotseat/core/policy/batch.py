"""The default policy. Pure.

Models that take turns on one accelerator are a polling system with switch-over times.
docs/scheduling.md has the figures:

- Exhaustive service (a model is served until its queue is empty) keeps up with any load below 1, and so does gated service (it serves
  what was queued when its turn began). So a turn never ends before that, however long others have waited.
- A round takes the sum of all switches / (1 - load) on average. A bound on waiting below that cannot be met, and enforcing it makes
  throughput collapse: it is widened to that.
- Where several models are queued, the turn of the second can only be in time if that of the first is early enough.
"""

from collections.abc import Mapping, Sequence
from math import inf, sqrt

from hotseat.core.messages import InstanceState, WaitReason
from hotseat.core.policy.api import NOTHING, Decision, EvictableAt, ModelView, View
from hotseat.core.policy.eviction import LEAVING_STATES, evictable_at
from hotseat.core.policy.placement import pending, place, residents

FULL = 0.9  # a load above this is taken for this: a round would take forever
UNMEASURED = 1 / 3  # the load of models whose service rate is not known
KEEP_IDLE_SHARE = 0.1  # of the cost of switching away and back: as long a resident may stay idle for a likely request


class Batch:
    """Serve residents while they have requests, then the model with the oldest queued request, within a bound on waiting.

    When the bound of a queued model is so near that only the models ahead of it and the batch of
    the resident fit in between, the turn ends: what was queued before is still served, later
    requests wait for the next turn. A ready model stays for its minimum residency. A decided switch
    is not cancelled while requests are queued for it: otherwise a model would be stopped for one
    and then loaded again for another.
    """

    def decide(self, view: View) -> Decision:
        """Return the models that should be resident."""
        kept, held = residents(view)
        queued_models = pending(view)
        active = [m for m in view.models if (m.waiting and m.may_evict) or (m.name in kept and m.in_flight)]
        max_resident = most_resident(view, active)
        round_ = _round(active, max_resident)
        bounds = {m.name: max(m.max_wait, round_) for m in queued_models}
        due = {m.name: m.oldest + bounds[m.name] for m in queued_models}

        now = view.now

        def order(model: ModelView) -> tuple[bool, bool, bool, float, float, str]:
            overdue = due[model.name] <= now
            urgency = 0.0 if overdue else -model.urgency(now)
            return (not model.may_evict, not model.promised, not overdue, urgency, model.oldest, model.name)

        queue = sorted(queued_models, key=order)
        pressing = [m for m in queue if m.may_evict]  # no turn ends for a model that must not evict
        ahead_of = time_ahead(pressing, max_resident)
        last_call = min((due[name] - lead for name, lead in ahead_of.items()), default=inf)
        idle_until = {r.name: _keep_idle_until(r, pressing) for r in kept.values()} if pressing else {}

        def free_at(resident: ModelView, waiter: ModelView) -> EvictableAt:
            at, why = evictable_at(resident, last_call - _remaining_batch(resident, waiter))
            lingers = min(idle_until[resident.name], last_call) if resident.idle else -inf
            return (lingers, WaitReason.LINGERING) if lingers > at else (at, why)

        promise = _effective_bound(view, tuple(kept.values()), pressing, [bounds[m.name] for m in pressing], ahead_of)
        promise = view.auto_max_wait if promise is None else promise
        placed = place(view, kept, held, queue, free_at=free_at, alarms=[*due.values(), last_call])
        cut_off = _cut_off(view, placed.resident, pressing)
        return Decision(
            placed.resident,
            placed.wake_at,
            promise,
            cut_off,
            queue=queue,
            obstacles=placed.obstacles,
            turns_ahead=ahead_of,
        )


def most_resident(view: View, active: Sequence[ModelView]) -> int:
    """Return how many models can be resident at a time.

    As many as are, or as GPUs and groups allow of the active ones.
    """
    gpus, there = sum(m.claim.gpus for m in active), view.capacity.gpus
    fitting = len(active) if there is None else there * len(active) // gpus if gpus else 0
    enough = min(fitting, view.groups.max_coresident({m.name for m in active}))
    return max(1, enough, sum(m.state is not None and m.claim != NOTHING for m in view.models))


def _round(active: Sequence[ModelView], max_resident: int) -> float:
    """Return the seconds between two turns of a model, on average, while the active models take turns."""
    load = sum(m.arrivals / m.pace for m in active if m.pace) / max_resident
    if not all(m.pace for m in active):
        load = max(load, UNMEASURED)
    return sum(m.switch_cost + m.uncertainty for m in active) / max_resident / (1 - min(load, FULL))


def time_ahead(queue: Sequence[ModelView], max_resident: int) -> dict[str, float]:
    """Return the seconds that the turns ahead of each queued model take, if each serves what is queued when it begins."""
    ahead_of, ahead = {}, 0.0
    for model in queue:
        ahead_of[model.name] = ahead / max_resident
        ahead += model.switch_cost + model.uncertainty + model.drain
        if model.pace:
            batch = model.waiting + model.arrivals * ahead
            ahead += (batch + sqrt(batch)) / model.pace  # and as many more as chance may bring
    return ahead_of


def _remaining_batch(resident: ModelView, waiter: ModelView) -> float:
    """Return the seconds that a resident needs for the rest of its batch."""
    batch = 0.0 if _has_served_its_batch(resident, waiter) or not resident.pace else resident.waiting / resident.pace
    return resident.switch_cost + batch if resident.state is InstanceState.LOADING else batch


def _seconds_until_evictable(resident: ModelView, waiter: ModelView, now: float) -> float:
    """Return the seconds until a resident may be evicted: the rest of its batch, and its minimum residency."""
    if resident.state is InstanceState.LOADING:
        residency = resident.switch_cost + resident.min_residency
    else:
        residency = 0.0 if resident.state in LEAVING_STATES else resident.ready_since + resident.min_residency - now
    return max(residency, _remaining_batch(resident, waiter))


def _has_served_its_batch(resident: ModelView, waiter: ModelView) -> bool:
    """Whether a resident's queued requests all came after the queued model's oldest, and after its own turn began."""
    return not resident.waiting or resident.oldest > max(waiter.oldest, resident.ready_since)


def _keep_idle_until(resident: ModelView, queue: Sequence[ModelView]) -> float:
    """Return until when an idle resident is kept.

    That is as long as its next requests mostly came soon, and few are queued elsewhere.
    """
    longest = KEEP_IDLE_SHARE * (resident.switch_cost + queue[0].switch_cost)
    soon = sum(gap <= longest for gap in resident.gaps)
    pays = 2 * soon > len(resident.gaps) and soon / len(resident.gaps) > KEEP_IDLE_SHARE * sum(m.waiting for m in queue)
    return max(resident.kept_until, resident.last_used + longest if pays else 0.0)


def _effective_bound(
    view: View,
    kept: Sequence[ModelView],
    queue: Sequence[ModelView],
    bounds: Sequence[float],
    ahead_of: Mapping[str, float],
) -> float | None:
    """Return the effective bound, plus one switch and drain: longer than requested if the models ahead take longer."""
    if not queue:
        return None
    rest = min((_seconds_until_evictable(resident, queue[0], view.now) for resident in kept), default=0.0)
    # A promised model's switch is already under way; it starts once the outgoing model has served its batch.
    in_turn = any(resident.state is InstanceState.QUIESCING and resident.waiting for resident in kept)
    late = [m for m in queue if in_turn or not m.promised]
    return round(max(*bounds, *(view.now - m.oldest + rest + ahead_of[m.name] for m in late), 0.0), 3)


def _cut_off(view: View, resident: Sequence[str], queue: Sequence[ModelView]) -> frozenset[str]:
    """Return the residents that are evicted now and have served their batch.

    Their queued requests are for their next turn.
    """
    if not queue:
        return frozenset()
    ready = (
        m for m in view.models if m.state is not None and m.state is InstanceState.READY and not m.leaving and m.waiting
    )
    return frozenset(m.name for m in ready if m.name not in resident and _has_served_its_batch(m, queue[0]))
