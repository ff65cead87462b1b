"""What models take of the accelerator's memory, beside what their documents claim. Pure.

A model that is seen to take more than it claims has outgrown its claim: that is told, and from then on it is placed by what was
seen, until its document changes; stats.py takes that over restarts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hotseat.core.events import Emit
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.messages import SchedulingSpec

TOLD_AGAIN = 1.05  # a figure that is this much above the one told last is told, too


@dataclass(slots=True)
class MemoryUsage:
    """One book for all models; all figures are bytes."""

    seen: dict[str, int] = field(default_factory=dict)  # by instance, the newest
    learned: dict[str, int] = field(
        default_factory=dict
    )  # by model: the most that was seen, where that is above its claim
    _told: dict[str, int] = field(default_factory=dict)  # by model

    def record(self, instance: Instance, memory: int, capacity: Capacity, *, lasting: bool = True) -> list[Emit]:
        """Take in what was seen of an instance. If it is more than it claims, it occupies that from now on.

        `lasting`: so will those that come after it.
        """
        self.seen[instance.id] = memory
        claim = instance.spec.claim
        if not claim.memory or memory <= claim.memory:
            return []
        if lasting:
            self.learned[instance.model] = max(memory, self.learned.get(instance.model, 0))
        instance.spec = replace(instance.spec, claim=raised(claim, memory, capacity))
        if memory < self._told.get(instance.model, 0) * TOLD_AGAIN:
            return []
        self._told[instance.model] = memory
        return [
            Emit("model.outgrown", instance.model, {"instance": instance.id, "claimed": claim.memory, "seen": memory})
        ]

    def raise_claims(self, models: Mapping[str, SchedulingSpec], capacity: Capacity) -> Mapping[str, SchedulingSpec]:
        """Give the terms with the claims that models turned out to need."""
        known = self.learned.keys() & models.keys()
        raise_ = {n: replace(models[n], claim=raised(models[n].claim, self.learned[n], capacity)) for n in known}
        return {name: raise_.get(name, spec) for name, spec in models.items()} if known else models

    def forget_changed(self, old: Mapping[str, SchedulingSpec], new: Mapping[str, SchedulingSpec]) -> None:
        """Drop what was learned of models whose documents have changed or are gone."""
        for model in [m for m in self.learned if not unchanged(old.get(m), new.get(m))]:
            del self.learned[model]
            self._told.pop(model, None)

    def by_model(self, instances: Iterable[Instance]) -> dict[str, int]:
        """Give what each model takes, by its largest instance."""
        figures: dict[str, int] = {}
        for instance in instances:
            if instance.id in self.seen:
                figures[instance.model] = max(self.seen[instance.id], figures.get(instance.model, 0))
        return figures


def raised(claim: Claim, memory: int, capacity: Capacity) -> Claim:
    """Raise a claim to what was seen, but no further than to what a model can have by itself: it would never start again."""
    if not claim.memory or capacity.memory is None:
        return claim
    most = capacity.each * claim.gpus if capacity.devices and claim.gpus else capacity.memory
    return replace(claim, memory=max(claim.memory, min(memory, most)))


def unchanged(old: SchedulingSpec | None, new: SchedulingSpec | None) -> bool:
    """Whether a model is there before and after, and does not have to restart for its new document."""
    return old is not None and new is not None and old.fingerprint == new.fingerprint
