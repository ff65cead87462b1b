"""The admission machine of one router and Workspace. Pure.

It decides for each request whether it is dispatched, queued or rejected. Its stimuli and commands
are in messages.py, its queues in queues.py, its endpoints in endpoints.py. Invariants
(tests/unit/core/test_worlds.py):

- every request that arrived ends exactly once: by Reject, RequestFinished or ClientDisconnected;
- a request is dispatched only to an instance that the newest residency shows as ready, or as quiescing if it is of its batch;
- once a quiescing instance has nothing in flight and nothing of its batch is queued, nothing is dispatched to it until it is ready
  again;
- a residency that is not newer than the last one changes nothing;
- no tenant with a queued request is passed over for more than one round of the others of its priority.
"""

from dataclasses import replace
from math import ceil

from hotseat.core.admission.endpoints import EndpointSet
from hotseat.core.admission.fair_queue import QueuedRequest
from hotseat.core.admission.fallback import PrewarmRequests
from hotseat.core.admission.messages import (
    AbortRequest,
    AdmissionCommand,
    AdmissionStimulus,
    ClientDisconnected,
    Dispatch,
    Limits,
    LimitsChanged,
    PrewarmRequested,
    Queued,
    Reject,
    ReportDemand,
    RequestArrived,
    RequestFinished,
    ResidencySeen,
    RouterClosed,
    ServedByFallback,
    WaitTimedOut,
)
from hotseat.core.admission.queues import QueueLimits, RequestQueue, RequestQueues, per_router
from hotseat.core.admission.retries import ExpectedRetries
from hotseat.core.admission.service_rate import clamp_retry_after
from hotseat.core.errors import ModelLoading, NotResident, QueueFull, Unavailable, UnknownModel
from hotseat.core.messages import EXTERNAL_EPOCH, Demand, InstanceState, QueuedDemand, Refusal, Residency, Resident
from hotseat.core.scheduler.status import ready_in


class AdmissionMachine:
    """The machine of one router and Workspace. `step` takes a stimulus and returns the commands that follow, in order."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.residency = Residency(epoch=-1)
        self._limits: dict[str, Limits] = {}
        self._requests: dict[int, QueuedRequest] = {}
        self._request_queues = RequestQueues()
        self._queues = self._request_queues.queues  # by model; none of them is empty
        self._endpoints = EndpointSet()
        self._refused: dict[str, int] = {}  # by model: epoch of the newest refusal that was applied
        self._announce: list[str] = []
        self._prewarm = PrewarmRequests()
        self._retries = ExpectedRetries()
        self._order = 0
        self._seq = 0
        self._closed = False

    def step(self, stimulus: AdmissionStimulus) -> list[AdmissionCommand]:  # noqa: PLR0911 — one arm a stimulus
        """Apply a stimulus. An unknown request id is ignored: a request may have ended meanwhile."""
        match stimulus:
            case RequestArrived():
                return self._arrive(stimulus)
            case RequestFinished() | ClientDisconnected():
                return self._end(stimulus.now, stimulus.request)
            case WaitTimedOut(now, request):
                return self._time_out(now, request)
            case ServedByFallback(now, request):
                return self._hand_to_fallback(now, request)
            case PrewarmRequested(now, model):
                return self._request_prewarm(now, model, now)
            case ResidencySeen(now, residency):
                return self._update_residency(now, residency)
            case LimitsChanged():
                return self._apply_limits(stimulus)
            case RouterClosed(now):
                return self._close(now)

    # Reading ----------------------------------------------------------------------------------------------------------

    def demand(self) -> Demand:
        """Return a snapshot for the scheduler. Each has a higher sequence number."""
        self._seq += 1
        requested = tuple(
            model for model in dict.fromkeys(self._announce) if model in self._queues or model in self._prewarm
        )
        self._announce = []
        quiescing = {}
        for model, last in self._endpoints.batches():
            queue = self._queues.get(model)
            if queue and (rest := queue.remaining(last)):
                quiescing[model] = rest
        return Demand(
            self.router,
            self._seq,
            self.residency.epoch,
            self.waiting_by_model(),
            dict(self._endpoints.in_flight),
            dict(self._endpoints.served),
            quiescing,
            requested,
            self._prewarm.snapshot(),
            self._endpoints.busy_pods(),
            self._retries.snapshot(),
            dict(self._endpoints.keep_alive),
        )

    def waiting_by_model(self) -> dict[str, QueuedDemand]:
        """Return the demand of each model with queued requests."""
        return {model: queue.summary() for model, queue in self._queues.items()}

    def waiting(self, model: str | None = None) -> int:
        """Return the number of queued requests, of one model or of all."""
        if model is None:
            return self._request_queues.count
        queue = self._queues.get(model)
        return queue.count if queue else 0

    def waiting_bytes(self) -> int:
        """Return the bytes of the bodies of queued requests."""
        return self._request_queues.size

    def in_flight(self, instance: str) -> int:
        """Return the number of requests in flight at an instance."""
        return self._endpoints.in_flight.get(instance, 0)

    def keep_alive(self, instance: str) -> float | None:
        """Return how many seconds an instance stays without a request, as a request said. None: none did."""
        said = self._endpoints.keep_alive.get(instance)
        return None if said is None else said[0]

    def position(self, request: int) -> int | None:
        """Return the position of a request in the queue of its model, 1 for the next. None: it is not queued."""
        known = self._requests.get(request)
        if known is None or known.instance is not None:
            return None
        return self._request_queues.position(known)

    def estimate(self, request: int, now: float) -> float | None:
        """Return the estimated seconds until a request is dispatched. None: not known.

        It is estimated by the service rate, and not before its model can be ready.
        """
        known = self._requests.get(request)
        if known is None or known.instance is not None:
            return None
        rate = self._request_queues.rate(known.model, now)
        by_rate = self._request_queues.position(known) / rate if rate else 0.0
        return max(by_rate, self._ready_in(known.model, now)) or None

    def rate(self, model: str, now: float) -> float | None:
        """Return the requests per second dispatched from a model's queue while it was not empty. None: not known."""
        return self._request_queues.rate(model, now)

    # Transitions ------------------------------------------------------------------------------------------------------

    def _arrive(self, s: RequestArrived) -> list[AdmissionCommand]:
        if self._closed:
            return [_shutting_down(s.request)]
        limits = self._limits.get(s.model)
        if limits is None:
            return [Reject(s.request, UnknownModel, "model_not_found", f"model {s.model} does not exist")]
        if self.residency.refusals and (refusal := self._refusal(s.now, s.model, s.deadline)):
            return [_refuse(s.request, refusal, s.now)]
        self._order += 1
        since = s.now if s.since is None else s.since
        request = QueuedRequest(
            s.model, s.priority, self._order, since, tenant=s.tenant, deadline=s.deadline, size=s.size
        )
        request.keep_alive = s.keep_alive
        if instance := self._endpoints.ready(s.model, limits.concurrency):
            self._requests[s.request] = request
            dispatch = self._dispatch(s.now, s.request, request, instance)
            if self._endpoints.in_flight[instance.instance] > 1:
                return [dispatch]
            return [dispatch, ReportDemand(urgent=self._edges_matter())]
        return self._hold(s, request, limits)

    def _hold(self, s: RequestArrived, request: QueuedRequest, limits: Limits) -> list[AdmissionCommand]:
        """Queue a request that cannot be dispatched now, or refuse it if it is not to be held."""
        if s.at_once:
            return [_not_resident(s)]
        if s.retry_after is not None and not self._endpoints.is_ready(s.model):
            return self._refuse_to_wait(s, s.retry_after)
        return self._enqueue(s.now, s.request, request, limits)

    def _refuse_to_wait(self, s: RequestArrived, retry_after: float) -> list[AdmissionCommand]:
        """Refuse a request that is not to be held. Its model is to be loaded, for the next try of its client."""
        seconds = max(retry_after, self._ready_in(s.model, s.now))
        self._retries.add(s.model, s.now, seconds)
        message = f"{s.model} is not ready, and its load is requested: send the request again in {ceil(seconds)} s"
        refused = Reject(s.request, ModelLoading, "model_switching_in_progress", message, seconds)
        return [refused, *(self._request_prewarm(s.now, s.model, s.now) or [ReportDemand(urgent=False)])]

    def _enqueue(self, now: float, id_: int, request: QueuedRequest, limits: Limits) -> list[AdmissionCommand]:
        """Queue a request, if no limit is reached and its deadline can be met."""
        if full := self._request_queues.check_limits(now, request, limits.max_waiting):
            return [Reject(id_, QueueFull, "queue_full", *full)]
        first = self._request_queues.add(now, id_, request, open_=request.model in self._endpoints.open)
        if too_late := self._too_late(id_, request, now):
            self._request_queues.remove(now, id_, request)
            return [too_late]
        self._requests[id_] = request
        new = first and request.model not in self._prewarm  # a prewarmed model is loaded anyway
        if new:
            self._announce.append(request.model)
        return [Queued(id_), ReportDemand(urgent=new)]

    # Deadlines --------------------------------------------------------------------------------------------------------

    def _ready_in(self, model: str, now: float) -> float:
        """Return a lower bound of the seconds until a model accepts requests."""
        return 0.0 if model in self._endpoints.open else ready_in(self.residency, model, now)

    def _too_late(self, id_: int, request: QueuedRequest, now: float) -> Reject | None:
        """Reject a queued request whose deadline cannot be met."""
        if request.deadline is None:
            return None
        model, left = request.model, request.deadline - now
        slots = self._endpoints.slots(model, self._limits[model].concurrency)
        least = self._request_queues.min_wait_of(request, now, ready_in=self._ready_in(model, now), slots=slots)
        if left > 0 and least <= left:
            return None
        message = f"{model} cannot serve this request within the {max(0.0, left):.1f} s left of X-Request-Timeout: "
        message += f"it needs at least {least:.1f} s"
        return Reject(id_, Unavailable, "deadline_unreachable", message, clamp_retry_after(least))

    def _reject_late(self, now: float, model: str) -> list[AdmissionCommand]:
        """Reject the queued requests of a model whose deadlines cannot be met."""
        commands: list[AdmissionCommand] = []
        while (queue := self._queues.get(model)) and (earliest := queue.next_deadline()):
            id_ = earliest[1]
            too_late = self._too_late(id_, self._requests[id_], now)
            if too_late is None:
                break
            commands.append(too_late)
            self._request_queues.remove(now, id_, self._requests.pop(id_))
        return commands

    # Dispatching ------------------------------------------------------------------------------------------------------

    def _dispatch(self, now: float, id_: int, request: QueuedRequest, instance: Resident) -> Dispatch:
        assert instance.address is not None  # noqa: S101 — only those with an address are open
        if request.keep_alive is not None:
            self._endpoints.keep_alive[instance.instance] = (request.keep_alive, now)
        request.instance = instance
        self._endpoints.acquire(instance)
        self._retries.end(request.model)
        return Dispatch(id_, instance.instance, instance.address)

    def _edges_matter(self) -> bool:
        """Whether a request that ends may let the scheduler act: then demand is reported at once."""
        return self._request_queues.count > 0 or self._endpoints.draining

    def _serve(self, now: float, model: str) -> list[AdmissionCommand]:
        """Dispatch queued requests of a model, as far as its instances and its concurrency allow."""
        commands: list[AdmissionCommand] = []
        while queue := self._queues.get(model):
            found = self._next(model, queue)
            if found is None:
                break
            id_, instance = found
            request = self._requests[id_]
            self._request_queues.remove(now, id_, request, served=True)
            commands.append(self._dispatch(now, id_, request, instance))
        return commands

    def _next(self, model: str, queue: RequestQueue) -> tuple[int, Resident] | None:
        """Return the request to dispatch now, and its instance, or None.

        The instance is a ready one, else a quiescing one for a request of its batch.
        """
        limit = self._limits[model].concurrency
        if ready := self._endpoints.ready(model, limit):
            first = queue.first()
            return None if first is None else (first, ready)
        for instance, last in self._endpoints.quiescing(model, limit):
            first = queue.first(last)
            if first is not None:
                return first, instance
        return None

    def _end(self, now: float, id_: int) -> list[AdmissionCommand]:
        request = self._requests.pop(id_, None)
        if request is None:
            return []
        if request.instance is None:
            self._request_queues.remove(now, id_, request)
            gone = request.model not in self._queues and request.model not in self._prewarm
            return [ReportDemand(urgent=gone)]
        instance = request.instance.instance
        self._endpoints.release(request.instance)
        next_ones: list[AdmissionCommand] = []
        if request.model in self._queues:
            next_ones = [*self._serve(now, request.model), *self._reject_late(now, request.model)]
        idle = instance not in self._endpoints.in_flight
        if not next_ones and not idle:
            return []
        emptied = bool(next_ones) and request.model not in self._queues
        return [*next_ones, ReportDemand(urgent=emptied or (idle and self._edges_matter()))]

    def _time_out(self, now: float, id_: int) -> list[AdmissionCommand]:
        request = self._requests.get(id_)
        if request is None or request.instance is not None:
            return []
        waited = now - request.arrived
        message = f"{request.model} did not become available within the client's limit on waiting ({waited:.1f} s)"
        return [Reject(id_, Unavailable, "wait_timeout", message, 5.0), *self._end(now, id_)]

    def _hand_to_fallback(self, now: float, id_: int) -> list[AdmissionCommand]:
        request = self._requests.get(id_)
        if request is None or request.instance is not None:
            return []
        return [*self._request_prewarm(now, request.model, request.arrived), *self._end(now, id_)]

    def _request_prewarm(self, now: float, model: str, since: float) -> list[AdmissionCommand]:
        """Add a prewarm request for a model that is not ready and not refused."""
        if self._closed or model not in self._limits or self._refusal(now, model):
            return []
        if self._endpoints.is_ready(model) or not self._prewarm.add(model, since):
            return []
        new = model not in self._queues
        if new:
            self._announce.append(model)
        return [ReportDemand(urgent=new)]

    def _refusal(self, now: float, model: str, deadline: float | None = None) -> Refusal | None:
        """Return the refusal that a new request gets. A ready model has none, whatever is said of its next load."""
        refusal = self.residency.refusals.get(model)
        if refusal is None or not _in_force(refusal, now) or not refusal.concerns(deadline):
            return None
        return None if self._endpoints.is_ready(model) else refusal

    def _update_residency(self, now: float, residency: Residency) -> list[AdmissionCommand]:
        if residency.epoch <= self.residency.epoch:
            return []
        first, self.residency = self.residency.epoch < 0, residency
        self._endpoints.update(residency.residents, self._order)
        lasts: dict[str, set[int]] = {}
        for model, last in self._endpoints.batches():
            lasts.setdefault(model, set()).add(last)
        self._request_queues.snapshot_batches(lasts)
        for model in self._queues:
            self._request_queues.update_rate_clock(now, model, open_=model in self._endpoints.open)
        refused = [model for model, each in residency.refusals.items() if each.epoch > self._refused.get(model, -1)]
        commands = self._refuse_waiters(now, refused, first=first)
        self._prewarm.remove([*refused, *filter(self._endpoints.is_ready, self._endpoints.open)])
        self._retries.remove(refused)
        for model in self._endpoints.open:
            commands += self._serve(now, model)
        for model in list(self._queues):
            commands += self._reject_late(now, model)
        return [*commands, *self._abort(), ReportDemand(urgent=True)]

    def _refuse_waiters(self, now: float, refused: list[str], *, first: bool) -> list[AdmissionCommand]:
        """Reject the queued requests of newly refused models.

        `first`: this is the first residency that this router sees.
        """
        commands: list[AdmissionCommand] = []
        for model in refused:
            refusal = self.residency.refusals[model]
            self._refused[model] = refusal.epoch
            # In the first one, a refusal that is over was meant for requests before this router was there.
            if (not first or _in_force(refusal, now)) and not self._endpoints.is_ready(model):
                commands += [_refuse(id_, refusal, now) for id_ in self._dismiss(now, model, refusal)]
        return commands

    def _abort(self) -> list[AdmissionCommand]:
        """End the requests in flight at instances that are stopped or gone. External servers are never stopped."""
        residents = {r.instance: r for r in self.residency.residents}
        commands: list[AdmissionCommand] = []
        for id_, request in self._requests.items():
            if request.instance is None or request.cut or request.instance.epoch == EXTERNAL_EPOCH:
                continue
            now = residents.get(request.instance.instance)
            if now is not None and now.state not in (InstanceState.RELEASING, InstanceState.UNPROVEN):
                continue
            request.cut = True
            if now is not None and now.leaving != "failed":
                message = f"{request.model} was stopped: its requests did not finish before the drain deadline (lifecycle.drainTimeout)"
            else:
                message = f"the engine of {request.model} ended"
            commands.append(AbortRequest(id_, message))
        return commands

    def _dismiss(self, now: float, model: str, refusal: Refusal | None = None) -> list[int]:
        """Remove the queued requests of a model, or those that a refusal concerns.

        Return their ids; the caller rejects them.
        """
        waiting = self._queues[model].ids() if model in self._queues else []
        dismissed = [id_ for id_ in waiting if refusal is None or refusal.concerns(self._requests[id_].deadline)]
        for id_ in dismissed:
            self._request_queues.remove(now, id_, self._requests.pop(id_))
        return dismissed

    def _apply_limits(self, s: LimitsChanged) -> list[AdmissionCommand]:
        self._limits = {
            model: replace(limits, concurrency=per_router(limits.concurrency, s.routers))
            for model, limits in s.models.items()
        }
        self._prewarm.retain(s.models)
        self._retries.retain(s.models)
        commands: list[AdmissionCommand] = []
        for model in [m for m in self._queues if m not in s.models]:
            message = f"model {model} was removed while this request was queued"
            commands += [Reject(id_, UnknownModel, "model_not_found", message) for id_ in self._dismiss(s.now, model)]
        limits = QueueLimits(
            s.max_waiting, per_tenant=s.max_waiting_per_tenant, size=s.max_waiting_bytes, routers=s.routers
        )
        self._request_queues.apply_config(limits, s.sharing, s.models)
        for model in self._endpoints.open:
            commands += self._serve(s.now, model)
        return [*commands, ReportDemand(urgent=True)]

    def _close(self, now: float) -> list[AdmissionCommand]:
        self._closed = True
        self._prewarm.retain(())
        self._retries.retain(())
        commands: list[AdmissionCommand] = []
        for model in list(self._queues):
            commands += [_shutting_down(id_) for id_ in self._dismiss(now, model)]
        return [*commands, ReportDemand(urgent=True)]


def _in_force(refusal: Refusal, now: float) -> bool:
    return refusal.retry_at is not None and refusal.retry_at > now


def _refuse(request: int, refusal: Refusal, now: float) -> Reject:
    retry = None if refusal.retry_at is None else max(1.0, refusal.retry_at - now)
    return Reject(request, Unavailable, refusal.code, refusal.message, retry)


def _not_resident(s: RequestArrived) -> Reject:
    return Reject(s.request, NotResident, "not_resident", f"{s.model} cannot serve this request without waiting")


def _shutting_down(request: int) -> Reject:
    return Reject(request, Unavailable, "shutting_down", "hotseat is shutting down", 5.0)
