"""Whether each model can be loaded: weights, failures and back-off, refusals, load requests. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hotseat.api.units import format_bytes
from hotseat.core.events import Emit
from hotseat.core.messages import FETCH_FAILED, CacheObserved, CacheState, Fetch, InstanceState, Refusal
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.messages import LoadFailure, SchedulingSpec
from hotseat.core.transfer_rate import TransferRate, seconds_left

MAX_BACKOFF = 300.0  # seconds
SHORTAGE_RETRY = 10.0  # seconds; a person has to act
FETCH_RETRY = 5.0  # seconds
REFETCH_PAUSE = 60.0  # seconds after a failed fetch for a model that still serves with an earlier document
CHECK_TIME = 5.0  # seconds for the check before a load; then the load begins without an answer
STABLE = 60.0  # seconds; an instance that was ready for so long resets the back-off
ENOUGH = 20  # answers, which reset it as well
_SHORTAGES = ("not_loadable", "too_large", "release_unproven", "pinned", "no_room")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A load request without a queued request: by an operator, a preload or a changed document."""

    since: float
    may_evict: bool


@dataclass(slots=True)
class ModelAvailability:
    """The availability of all models. `changed`: a residency has to be published."""

    failures: dict[str, LoadFailure] = field(default_factory=dict)
    cache: dict[str, CacheObserved] = field(default_factory=dict)
    load_requests: dict[str, LoadRequest] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    rates: dict[str, TransferRate] = field(default_factory=dict)  # by model whose weights are being fetched
    checks: dict[str, float] = field(default_factory=dict)  # by model that is to load: until when the check is awaited
    changed: bool = False

    # Load requests ----------------------------------------------------------------------------------------------------

    def request_load(self, model: str, now: float, *, may_evict: bool) -> None:
        """Request that a model is loaded. An earlier request keeps its time."""
        earlier = self.load_requests.get(model)
        self.load_requests[model] = LoadRequest(earlier.since if earlier else now, may_evict)

    def retry(self, model: str, now: float) -> None:
        """Allow a load at once."""
        if failure := self.failures.get(model):
            failure.retry_at = now
        self._retract_refusal(model)

    def mark_ready(self, model: str) -> None:
        """Mark a model as ready: its load request is fulfilled, its refusal retracted."""
        self.load_requests.pop(model, None)
        self._retract_refusal(model)
        if failure := self.failures.get(model):
            failure.over = True

    def apply_config(
        self, now: float, changed: Iterable[str], gone: Iterable[str], refetch: Collection[str], *, retry: bool
    ) -> None:
        """Apply new specs: forget models that are `gone`, failures of those that `changed`, and weights of those to `refetch`.

        `retry`: models that failed may be tried again at once.
        """
        self.retract_shortages()
        for model in changed:
            self.failures.pop(model, None)
            self._retract_refusal(model)
            self.checks.pop(model, None)
            if model in self.cache and (model in refetch or self.cache[model].state is CacheState.FAILED):
                self.cache[model] = CacheObserved(now, model, CacheState.ABSENT)
        for model in self.failures if retry else ():
            self.retry(model, now)
        for model, cache in self.cache.items() if retry else ():
            if cache.state is CacheState.FAILED:
                self.cache[model] = replace(cache, now=now - REFETCH_PAUSE)
        for model in gone:
            for models in (self.failures, self.cache, self.load_requests, self.checks, self.rates):
                models.pop(model, None)
            self._retract_refusal(model)

    # Weights ----------------------------------------------------------------------------------------------------------

    def update_cache(self, s: CacheObserved) -> list[Emit]:
        """Update the state of the weights of a model."""
        before = self.cache.get(s.model)
        self.cache[s.model] = s
        if s.model in self.checks:
            self.checks[s.model] = s.now
        if s.state is CacheState.FETCHING:
            return [Emit("model.fetching", s.model, self._progress(s))]
        self.rates.pop(s.model, None)
        if s.state is CacheState.CACHED:
            self._retract_refusal(s.model, "weights_not_cached")
        if s.state is CacheState.CACHED and before is not None and before.state is not CacheState.CACHED:
            return [Emit("model.cached", s.model, {})]
        return []

    def _progress(self, s: CacheObserved) -> dict[str, Any]:
        if s.done is not None:
            self.rates.setdefault(s.model, TransferRate()).update(s.now, s.done)
        rate = self.rate(s.model)
        left = seconds_left(s.done, s.total, rate)
        return {"done": s.done, "total": s.total, "rate": rate, "remaining": left, "message": s.message}

    def rate(self, model: str) -> int | None:
        """Return how fast the weights of a model arrive, in bytes per second, where that is known."""
        return self.rates[model].rate if model in self.rates else None

    def cached(self, model: str) -> bool:
        """Whether the weights of a model are complete."""
        cache = self.cache.get(model)
        return cache is not None and cache.state is CacheState.CACHED

    def uncached(self) -> list[str]:
        """Return the models of which the weights are known to be incomplete."""
        return [model for model, cache in self.cache.items() if cache.state is not CacheState.CACHED]

    def fetch(self, model: str, *, again: bool = True) -> list[Fetch]:
        """Return the command to fetch the weights of a model, if their state is known and no fetch runs.

        `again`: also after a failure.
        """
        cache = self.cache.get(model)
        states = (CacheState.ABSENT, CacheState.FAILED) if again else (CacheState.ABSENT,)
        if cache is None or cache.state not in states:
            return []
        self.cache[model] = replace(cache, state=CacheState.FETCHING, message="requested", reason=FETCH_FAILED)
        return [Fetch(model)]

    def order_fetch(self, model: str) -> list[Fetch]:
        """Return the command to fetch the weights of a model, as `fetch` does. A fetch that failed before is forgotten."""
        fetches = self.fetch(model)
        if fetches:
            self.failures.pop(model, None)
            self._retract_refusal(model)
        return fetches

    def fetch_successor(self, model: str, now: float) -> tuple[list[Fetch], float]:
        """Return the command to fetch what an outdated instance waits for, and when to fetch again after a failure."""
        cache = self.cache.get(model)
        retry_at = cache.now + REFETCH_PAUSE if cache and cache.state is CacheState.FAILED else now
        return ([] if retry_at > now else self.fetch(model)), retry_at

    def fetch_ahead(self, specs: Mapping[str, SchedulingSpec]) -> list[Fetch]:
        """Ask for the weights of models whose specs say so, once."""
        return [fetch for name, spec in specs.items() if spec.fetch_ahead for fetch in self.fetch(name, again=False)]

    def check(self, model: str, now: float) -> list[Fetch]:
        """Return the command to check the weights of a model before a load, once for each load."""
        if model in self.checks or not self.cached(model):
            return []
        self.checks[model] = now + CHECK_TIME
        return [Fetch(model)]

    def awaits_fetch(self, model: str) -> bool:
        """Whether a fetch or a check of the weights of a model was not answered yet."""
        cache = self.cache.get(model)
        return model in self.checks or (cache is not None and cache.state is CacheState.FETCHING)

    def refuse_uncached(self, model: str, now: float, epoch: int) -> None:
        """Refuse the queued requests of a model while its weights are fetched, with the progress."""
        cache = self.cache.get(model)
        if cache is None or cache.state is CacheState.CACHED:
            return
        progress = "" if cache.done is None else f": {cache.done / 1e6:.0f} MB"
        if cache.done is not None and cache.total:
            progress += f" of {cache.total / 1e6:.0f} MB ({100 * cache.done // cache.total}%)"
        message = f"the weights of {model} are still being fetched{progress}"
        if cache.reason != FETCH_FAILED:
            message = f"the weights of {model} cannot be fetched at present: {cache.reason}: {cache.message}"
        self.refuse(model, Refusal(epoch, "weights_not_cached", message, now + FETCH_RETRY))

    # Failures and refusals --------------------------------------------------------------------------------------------

    def fail(
        self,
        now: float,
        model: str,
        reason: str,
        message: str,
        epoch: int,
        *,
        crashed: bool,
        max_wait: float,
        exit_code: int | None = None,
    ) -> float:
        """Count a failure. Return the back-off in seconds, which doubles with each.

        A first crash (`crashed`: it had been ready) has none. With a back-off, queued requests are
        refused in the residency of this epoch. After a crash they stay queued where the back-off is
        not longer than their bound, which is `max_wait` seconds where the client has set none: a
        crash says little about the next load.
        """
        count = self.failures[model].count + 1 if model in self.failures else 1
        exponent = count - 2 if crashed else count - 1
        delay = 0.0 if exponent < 0 else min(MAX_BACKOFF, 2.0 ** min(exponent, 30))
        self.failures[model] = LoadFailure(count, now + delay, reason, message, exit_code=exit_code)
        self.load_requests.pop(model, None)
        if delay:
            told = f"{model} failed: {reason}: {message}"
            waits = crashed and delay <= max_wait
            self.refuse(model, Refusal(epoch, "model_failed", told, now + delay, waits))
        return delay

    def reset_backoff(self, model: str, ready_since: float | None, now: float, answers: int) -> None:
        """Forget the failures of a model that has served well.

        That is: it was ready for STABLE seconds (since `ready_since`; None: never), or has answered
        ENOUGH requests.
        """
        if ready_since is not None and (now - ready_since >= STABLE or answers >= ENOUGH):
            self.failures.pop(model, None)

    def retry_at(self, model: str) -> float:
        """Return the time from which a model may be loaded."""
        failure = self.failures.get(model)
        return failure.retry_at if failure else 0.0

    def refuse(self, model: str, refusal: Refusal) -> None:
        """Refuse the queued requests of a model."""
        self.refusals[model] = refusal
        self.changed = True

    def refusal_epoch(self, model: str) -> int:
        """Return the epoch of the refusal of a model, -1 for none.

        Routers that have seen it have rejected earlier requests.
        """
        refusal = self.refusals.get(model)
        return refusal.epoch if refusal else -1

    def retract_shortages(self) -> None:
        """Retract refusals for a shortage: the models may fit now."""
        for model in [m for m, refusal in self.refusals.items() if refusal.code in _SHORTAGES]:
            self._retract_refusal(model)

    def _retract_refusal(self, model: str, code: str | None = None) -> None:
        """Retract the refusal of a model: any, or one with this code."""
        if model in self.refusals and code in (None, self.refusals[model].code):
            del self.refusals[model]
            self.changed = True


def shortage(
    model: str,
    claim: Claim,
    capacity: Capacity,
    instances: Collection[Instance],
    *,
    now: float,
    epoch: int,
    groups: Groups = UNGROUPED,
) -> Refusal | None:
    """Return the refusal if no eviction could ever make a model fit, else None."""
    if not claim.fits_beside(NOTHING, capacity):
        return Refusal(epoch, "too_large", _too_large(model, claim, capacity))
    stuck = [h for h in instances if h.state is InstanceState.UNPROVEN]
    taken = sum((h.occupied(capacity) for h in stuck), NOTHING)
    alone = not any(h.model == model for h in stuck) and groups.can_join(
        model, (h.model for h in stuck if not h.asleep)
    )
    if not alone or not claim.fits_beside(taken, capacity):
        why = "".join(f": {h.unproven_detail}" for h in stuck[:1] if h.unproven_detail)
        message = f"the accelerator could not be verified as free{why}; manual action is needed (run: hotseat ps)"
        return Refusal(epoch, "release_unproven", message, now + SHORTAGE_RETRY)
    firm = [h for h in instances if h.can_stay and not h.asleep and not groups.may_leave(h.name, model)]
    if claim.fits_beside(sum((h.occupied(capacity) for h in firm), taken), capacity):
        return None
    names = ", ".join(sorted(h.model for h in firm))
    message = f"there is no room for {model}: its Workspace keeps {names} loaded (groups.persistent)"
    return Refusal(epoch, "no_room", message, now + SHORTAGE_RETRY)


def _too_large(model: str, claim: Claim, capacity: Capacity) -> str:
    """Return the message with what a model claims and what is available."""
    devices = len(capacity.devices)
    memory = capacity.each if devices and capacity.memory is not None else capacity.memory
    wanted, there = _amount(claim.gpus, claim.memory), _amount(capacity.gpus, memory)
    if devices > 1 and capacity.memory is not None:
        there += " each"
    if capacity.missing:
        there += f"; capacity.gpus states {(capacity.gpus or 0) + capacity.missing}, but no more are available"
    return f"{model} claims more than its Workspace has: {wanted} (available: {there})"


def _amount(gpus: int | None, memory: int | None) -> str:
    parts = [] if gpus is None else [f"{gpus} GPU{'' if gpus == 1 else 's'}"]
    return " with ".join([*parts, *([f"{format_bytes(memory)} of memory"] if memory else [])])
