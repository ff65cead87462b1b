"""The measured accelerator memory of models, beside what their documents claim. Pure.

A model that takes more than it claims is reported, and from then on it is placed by what was
measured, until its document changes; stats.py keeps that over restarts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hotseat.core.events import Emit
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.messages import SchedulingSpec

REPORT_AGAIN = 1.05  # a measurement is reported again when it is so much above the last one


@dataclass(slots=True)
class MemoryUsage:
    """The measured memory of all models, in bytes."""

    seen: dict[str, int] = field(default_factory=dict)  # by instance, the newest
    learned: dict[str, int] = field(default_factory=dict)  # by model: the maximum, where that is above its claim
    _reported: dict[str, int] = field(default_factory=dict)  # by model

    def record(self, instance: Instance, memory: int, capacity: Capacity, *, lasting: bool = True) -> list[Emit]:
        """Record a measurement of an instance. If it is more than it claims, it claims that from now on.

        `lasting`: so do later instances of its model.
        """
        self.seen[instance.id] = memory
        claim = instance.spec.claim
        if not claim.memory or memory <= claim.memory:
            return []
        if lasting:
            self.learned[instance.model] = max(memory, self.learned.get(instance.model, 0))
        instance.spec = replace(instance.spec, claim=raised(claim, memory, capacity))
        if memory < self._reported.get(instance.model, 0) * REPORT_AGAIN:
            return []
        self._reported[instance.model] = memory
        return [
            Emit("model.outgrown", instance.model, {"instance": instance.id, "claimed": claim.memory, "seen": memory})
        ]

    def raise_claims(self, models: Mapping[str, SchedulingSpec], capacity: Capacity) -> Mapping[str, SchedulingSpec]:
        """Return the specs, with claims raised to what was measured."""
        known = self.learned.keys() & models.keys()
        raise_ = {n: replace(models[n], claim=raised(models[n].claim, self.learned[n], capacity)) for n in known}
        return {name: raise_.get(name, spec) for name, spec in models.items()} if known else models

    def forget_changed(self, old: Mapping[str, SchedulingSpec], new: Mapping[str, SchedulingSpec]) -> None:
        """Forget the measurements of models whose documents have changed or are gone."""
        for model in [m for m in self.learned if not unchanged(old.get(m), new.get(m))]:
            del self.learned[model]
            self._reported.pop(model, None)

    def by_model(self, instances: Iterable[Instance]) -> dict[str, int]:
        """Return what the largest instance of each model takes."""
        figures: dict[str, int] = {}
        for instance in instances:
            if instance.id in self.seen:
                figures[instance.model] = max(self.seen[instance.id], figures.get(instance.model, 0))
        return figures


def raised(claim: Claim, memory: int, capacity: Capacity) -> Claim:
    """Return a claim raised to what was measured.

    It is raised at most to what a single model can have: otherwise its model would never start
    again.
    """
    if not claim.memory or capacity.memory is None:
        return claim
    most = capacity.each * claim.gpus if capacity.devices and claim.gpus else capacity.memory
    return replace(claim, memory=max(claim.memory, min(memory, most)))


def unchanged(old: SchedulingSpec | None, new: SchedulingSpec | None) -> bool:
    """Whether a model is there before and after, and does not have to restart for its new document."""
    return old is not None and new is not None and old.fingerprint == new.fingerprint
