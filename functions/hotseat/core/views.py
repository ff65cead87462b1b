"""How models and holders look from outside: to the policy, to routers, to people. Pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hotseat.core.demands import NOBODY, Waiters
from hotseat.core.instance import Holder
from hotseat.core.messages import EXTERNAL_EPOCH, CacheState, Resident, SeatState
from hotseat.core.policy import UNMEASURED_WAIT, Capacity, ModelView, Wish
from hotseat.core.prospects import Order, Prospects
from hotseat.core.rates import Rates
from hotseat.core.seats import ModelStatus, Terms
from hotseat.core.switches import UNKNOWN, Ledger

SHOWN = 8  # transitions of an instance that routers and people are shown
# Policies see PARKING as RELEASING and WAKING as LOADING. Parked instances are hidden from them.
_SEEN: Mapping[SeatState, SeatState] = {
    SeatState.PARKING: SeatState.RELEASING,
    SeatState.WAKING: SeatState.LOADING,
}


def model_view(
    name: str,
    terms: Terms,
    holder: Holder | None,
    *,
    waiting: tuple[int, float],
    order: Order | None,
    in_flight: int,
    ledger: Ledger,
    rates: Rates,
    now: float,
    capacity: Capacity,
    waiters: Waiters = NOBODY,
    wish: Wish = Wish.NONE,
    expected_until: float = 0.0,
    auto_max_wait: float = UNMEASURED_WAIT,
) -> ModelView:
    """Show the policy a model. An order counts as one that waits, until the model is ready; a preload, until it loads.

    `expected_until`: until when clients of it that gave up are expected to ask again.
    """
    count, oldest = waiting
    may_evict = True
    seat = _SEEN.get(holder.state, holder.state) if holder else None
    if order and (seat is None or (seat is SeatState.LOADING and order.may_evict)):
        may_evict = order.may_evict or count > 0
        count, oldest = count + 1, min(oldest, order.since) if count else order.since
    staying = holder is not None and holder.staying and holder.state is not SeatState.PARKING
    occupies = staying or seat is SeatState.UNPROVEN
    return ModelView(
        name=name,
        claim=holder.occupied(capacity) if holder and occupies else terms.claim,
        priority=terms.priority,
        max_wait=auto_max_wait if terms.max_wait is None else terms.max_wait,
        min_residency=terms.min_residency,
        waiting=count,
        oldest=oldest,
        in_flight=in_flight,
        seat=seat,
        leaving=holder is not None and not staying,
        promised=ledger.promised(name),
        ready_since=(holder.ready_since or 0.0) if holder else 0.0,
        last_used=holder.last_used if holder else 0.0,
        may_evict=may_evict,
        switch_cost=ledger.costs.of(name, parks=terms.park),
        drain=ledger.costs.draining(name),
        uncertainty=ledger.costs.uncertainty(name, parks=terms.park),
        arrivals=rates.arrivals(name, now),
        pace=rates.pace(name),
        gaps=rates.gaps(name),
        ageing=terms.ageing,
        tenants=waiters[0],
        deadline=waiters[1],
        wish=wish,
        pinned=wish is Wish.PINNED,
        asleep=holder is not None and holder.asleep,
        kept_until=_kept_until(holder, expected_until, ledger, now) if holder and not count else 0.0,
    )


def _kept_until(holder: Holder, expected_until: float, ledger: Ledger, now: float) -> float:
    """Give the time until which an instance that no request waits for is worth keeping: it loads, or has served nothing yet.

    A load is worth finishing once half of it is done, by the time that it took before: stopping it costs more than it saves. The
    next load after one that was given up has twice as long: however little its clients wait, it gets ready in the end.
    """
    if holder.state is SeatState.READY:
        return expected_until if holder.dispatched < (holder.ready_since or 0.0) else 0.0
    if holder.state not in (SeatState.LOADING, SeatState.WAKING):
        return 0.0
    times = ledger.costs.wake if holder.state is SeatState.WAKING else ledger.costs.load
    usual, given_up = times.get(holder.model, UNKNOWN).mean, ledger.given_up(holder.seat, now)
    if given_up or 2 * (now - holder.since) >= usual:
        expected_until = max(expected_until, holder.since + 2 * max(usual, given_up))
    return expected_until


def residents(holders: Iterable[Holder], terms: Mapping[str, Terms]) -> tuple[Resident, ...]:
    """Show routers who holds a seat, and the servers that need none of ours."""
    ours = (
        Resident(
            h.model,
            h.id,
            h.state,
            h.epoch,
            h.since,
            h.address,
            h.leaving,
            h.devices,
            h.memory,
            tuple(h.story)[-SHOWN:],
        )
        for h in holders
    )
    external = (
        Resident(name, f"{name}@external", SeatState.READY, EXTERNAL_EPOCH, 0.0, t.external)
        for name, t in terms.items()
        if t.external
    )
    return (*ours, *external)


def statuses(
    terms: Mapping[str, Terms], holders: Mapping[str, Holder], prospects: Prospects, pinned: frozenset[str]
) -> list[ModelStatus]:
    """Say how all models are, in the order of the documents; `holders` are the ones that count."""
    rows = [status_of(name, each, holders.get(name), prospects) for name, each in terms.items()]
    return [replace(row, pinned=True) if row.name in pinned else row for row in rows]


def status_of(name: str, terms: Terms, holder: Holder | None, prospects: Prospects) -> ModelStatus:
    """Say how a model is, from what is known of it."""
    failure, cache = prospects.failures.get(name), prospects.cache.get(name)
    if terms.external:
        return ModelStatus(name, SeatState.READY.value)
    if holder is not None and not (holder.leaving == "failed" and holder.state is SeatState.RELEASING):
        return ModelStatus(name, holder.state.value, holder.since, holder.left)
    if failure is not None and not failure.over:
        told = f"{failure.reason}: {failure.message}"
        return ModelStatus(name, "failed", None, told, retry_at=failure.retry_at, exit_code=failure.exit_code)
    if cache is not None and cache.state is CacheState.FETCHING:
        return ModelStatus(name, "fetching", cache.now, cache.message, cache.done, cache.total)
    if cache is not None and cache.state is CacheState.FAILED:
        return ModelStatus(name, "failed", None, cache.message)
    return ModelStatus(name, "unloaded")
