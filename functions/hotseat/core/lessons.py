"""What was learned of models and is worth keeping: how long their steps take, and the memory that they turned out to need. Pure.

It belongs to a model as its document was; a lesson comes back with that document, also after a restart. How fast requests come
is of the moment (rates.py), and is learned anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from hotseat.core.memory import Memory, unchanged
from hotseat.core.parking import Parking
from hotseat.core.seats import Terms
from hotseat.core.switches import Costs, Estimate


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learned of one model while its document was what `mark` stands for. Memory is in bytes."""

    mark: str
    times: Mapping[str, Estimate] = field(default_factory=dict)  # by step; those that have not happened are left out
    memory: int | None = None  # of the accelerator, where it is more than the model claims
    parked_memory: int | None = None  # of the host, when it slept last


Lessons = Mapping[str, Lesson]  # by model


@dataclass(slots=True)
class Recall:
    """The books in which is learned, and the lessons of documents that are not in force."""

    costs: Costs
    memory: Memory
    parking: Parking
    kept: dict[str, Lesson]

    def follow(self, old: Mapping[str, Terms], new: Mapping[str, Terms]) -> None:
        """Take in new documents: put away what is not about them, and bring back what is."""
        gone = {model: terms for model, terms in old.items() if not unchanged(terms, new.get(model))}
        come = {model: terms for model, terms in new.items() if not unchanged(old.get(model), terms)}
        self.kept |= self.lessons(gone)
        self.memory.keep(old, new)
        for model in gone.keys() | come.keys():
            self.costs.forget(model)
            self.parking.measured.pop(model, None)
        for model, terms in come.items():
            lesson = self.kept.get(model)
            if lesson is None or lesson.mark != mark_of(terms):
                continue
            self.costs.recall(model, lesson.times)
            if lesson.memory is not None:
                self.memory.learned[model] = lesson.memory
            if lesson.parked_memory is not None:
                self.parking.measured[model] = lesson.parked_memory

    def lessons(self, models: Mapping[str, Terms]) -> dict[str, Lesson]:
        """Give what is known of these models; those of which nothing is are left out."""
        found = {}
        for model, terms in models.items():
            memory, parked = self.memory.learned.get(model), self.parking.measured.get(model)
            if (times := self.costs.known(model)) or memory is not None or parked is not None:
                found[model] = Lesson(mark_of(terms), times, memory, parked)
        return found


def mark_of(terms: Terms) -> str:
    """Stand for a document. It may hold secrets, which have no place where lessons are kept."""
    return sha256(terms.fingerprint.encode()).hexdigest()[:16]
