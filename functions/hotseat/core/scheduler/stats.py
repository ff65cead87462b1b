"""Statistics of models: arrival and service rates, and statistics that outlive a restart. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import exp

from hotseat.core.messages import Demand
from hotseat.core.scheduler.history import Estimate, StepDurations
from hotseat.core.scheduler.memory_usage import MemoryUsage, unchanged
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.core.scheduler.sleep import SleepManager

ARRIVAL_MEMORY = 900.0  # seconds after which an arrival counts for a third
PACE_MEMORY = 120.0  # the same for an answer, in seconds with requests both queued and in flight
GAPS = 8  # how many idle times are remembered
_YOUNG = 30.0  # seconds that a first burst is taken to have been spread over
_ENOUGH = 20  # answers before a pace is believed


@dataclass(slots=True)
class _Flow:
    """The requests of one model at all routers.

    Counts decay exponentially; divided by the time constant they are rates.
    """

    born: float
    at: float  # the counts are of this time
    waiting: int = 0
    in_flight: int = 0
    arrived: float = 0.0
    answered: float = 0.0
    plenty: float = 0.0  # seconds with requests both queued and in flight
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=GAPS))

    def pass_to(self, now: float) -> bool:
        """Let time pass. Return whether requests were both queued and in flight meanwhile."""
        seconds, self.at = now - self.at, now
        self.arrived *= exp(-seconds / ARRIVAL_MEMORY)
        plenty = self.waiting > 0 and self.in_flight > 0
        if plenty:
            fading = exp(-seconds / PACE_MEMORY)
            self.plenty = self.plenty * fading + seconds
            self.answered *= fading
        return plenty


@dataclass(slots=True)
class ArrivalRates:
    """The rates of all models of a Workspace."""

    _flows: dict[str, _Flow] = field(default_factory=dict)

    def record(self, now: float, last: Demand, new: Demand, model_of: Mapping[str, str]) -> None:
        """Record the difference of two snapshots of a router. `model_of` maps instances to models.

        A request that left without an answer does not count: its client may ask again, and would
        count twice. Nor does what a router did before its first snapshot: it may be long ago.
        """
        served: dict[str, int] = {}
        flying: dict[str, int] = {}
        for instance, count in new.served.items() if last.seq else ():
            if instance in model_of:
                model = model_of[instance]
                served[model] = served.get(model, 0) + count - last.served.get(instance, 0)
        for counts, sign in ((new.in_flight, 1), (last.in_flight, -1)):
            for instance, count in counts.items():
                if instance in model_of:
                    flying[model_of[instance]] = flying.get(model_of[instance], 0) + sign * count
        for model in {*served, *flying, *new.waiting, *last.waiting}:
            waiting = sum(d.waiting[model].count * sign for d, sign in ((new, 1), (last, -1)) if model in d.waiting)
            if served.get(model) or flying.get(model) or waiting:
                self._add(now, model, served.get(model, 0), flying.get(model, 0), waiting)

    def _add(self, now: float, model: str, served: int, flying: int, waiting: int) -> None:
        flow = self._flows.setdefault(model, _Flow(now, now))
        if flow.arrived and not flow.waiting and not flow.in_flight and served + waiting > 0:
            flow.gaps.append(now - flow.at)  # its last change was that it became idle
        if flow.pass_to(now):
            flow.answered += max(0, served - flying)
        flow.arrived = max(0.0, flow.arrived + served + waiting)
        flow.waiting = max(0, flow.waiting + waiting)
        flow.in_flight = max(0, flow.in_flight + flying)

    def forget(self, model: str) -> None:
        """Forget a model."""
        self._flows.pop(model, None)

    def arrivals(self, model: str, now: float) -> float:
        """Return the recent requests per second."""
        flow = self._flows.get(model)
        if flow is None:
            return 0.0
        return (
            flow.arrived
            * exp((flow.at - now) / ARRIVAL_MEMORY)
            / (ARRIVAL_MEMORY * (1 - exp(-max(now - flow.born, _YOUNG) / ARRIVAL_MEMORY)))
        )

    def gaps(self, model: str) -> tuple[float, ...]:
        """Return the last idle times before a next request, in seconds."""
        flow = self._flows.get(model)
        return tuple(flow.gaps) if flow is not None else ()

    def pace(self, model: str) -> float:
        """Return the answers per second while more requests are queued than run. 0: not known."""
        flow = self._flows.get(model)
        return flow.answered / flow.plenty if flow is not None and flow.plenty and flow.answered >= _ENOUGH else 0.0


@dataclass(frozen=True, slots=True)
class ModelStats:
    """The statistics of one model, for the document of which `mark` is the hash. Memory is in bytes."""

    mark: str
    times: Mapping[str, Estimate] = field(default_factory=dict)  # by step; those that have not happened are left out
    memory: int | None = None  # of the accelerator, where it is more than the model claims
    parked_memory: int | None = None  # of the host, when it slept last


StatsByModel = Mapping[str, ModelStats]  # by model


@dataclass(slots=True)
class StatsArchive:
    """The sources of statistics, and the statistics of documents that are not in force."""

    durations: StepDurations
    memory: MemoryUsage
    sleep: SleepManager
    kept: dict[str, ModelStats]

    def apply_config(self, old: Mapping[str, SchedulingSpec], new: Mapping[str, SchedulingSpec]) -> None:
        """Archive the statistics of changed documents, and restore those of new ones."""
        gone = {model: spec for model, spec in old.items() if not unchanged(spec, new.get(model))}
        come = {model: spec for model, spec in new.items() if not unchanged(old.get(model), spec)}
        self.kept |= self.stats(gone)
        self.memory.forget_changed(old, new)
        for model in gone.keys() | come.keys():
            self.durations.forget(model)
            self.sleep.measured.pop(model, None)
        for model, spec in come.items():
            stats = self.kept.get(model)
            if stats is None or stats.mark != spec_hash(spec):
                continue
            self.durations.apply_known(model, stats.times)
            if stats.memory is not None:
                self.memory.learned[model] = stats.memory
            if stats.parked_memory is not None:
                self.sleep.measured[model] = stats.parked_memory

    def stats(self, models: Mapping[str, SchedulingSpec]) -> dict[str, ModelStats]:
        """Return the statistics of these models. Models without any are left out."""
        found, learned = {}, self.durations.learned() | self.memory.learned.keys() | self.sleep.measured.keys()
        for model, spec in models.items():
            if model not in learned:
                continue
            memory, parked = self.memory.learned.get(model), self.sleep.measured.get(model)
            if (times := self.durations.known(model)) or memory is not None or parked is not None:
                found[model] = ModelStats(spec_hash(spec), times, memory, parked)
        return found


def spec_hash(spec: SchedulingSpec) -> str:
    """Return the hash of a document: it may hold secrets, which must not be archived."""
    return sha256(spec.fingerprint.encode()).hexdigest()[:16]
