"""Wishes: which models should be resident though nobody waits for them, and which of them make room for nobody. Pure.

A model is wished for because it is pinned (by an operator, its document or a window of its schedule), because such a window is
open, or because it is the default of a Workspace that has been quiet. What a wish may do is granting.py's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.groups import UNGROUPED, Groups
from hotseat.core.instance import Holder
from hotseat.core.messages import Refusal, SeatState
from hotseat.core.policy import NOTHING, Capacity, Claim, Wish
from hotseat.core.prospects import SHORTAGE_RETRY, Prospects, shortage
from hotseat.core.seats import Terms

Queue = Mapping[str, tuple[int, float, int]]  # by model: how many wait, since when, and how many are being answered

_REASONS: Mapping[Wish, str] = {
    Wish.NONE: "ordered",
    Wish.DEFAULT: "default",
    Wish.SCHEDULED: "schedule",
    Wish.PINNED: "pin",
}


@dataclass(slots=True)
class Wishes:
    """One book for all models. What documents say comes with their Terms; here stands what operators said beside that."""

    quiet_since: float | None = None  # nobody has waited or been answered since
    pinned: frozenset[str] = frozenset()  # as of the last look
    _pins: set[str] = field(default_factory=set)
    _unpins: set[str] = field(default_factory=set)  # against what their terms say
    _dismissed: set[str] = field(default_factory=set)  # an operator unloaded them, and nobody has asked for them since
    _blocking: frozenset[str] = frozenset()  # pinned, and on a seat
    _told: frozenset[str] = frozenset()

    # What operators and documents say ---------------------------------------------------------------------------------

    def unpin(self, model: str, terms: Terms | None) -> None:
        """Unpin it; where its terms pin it, until they have ceased to."""
        self._pins.discard(model)
        if terms is not None and (terms.pinned or terms.kept):
            self._unpins.add(model)

    def dismiss(self, model: str) -> None:
        """Wish for it no longer, until somebody asks for it again."""
        self._dismissed.add(model)

    def ask(self, model: str, terms: Terms, *, pin: bool = False) -> None:
        """Note that an operator asks for it, and maybe pins it until it is unpinned."""
        self._dismissed.discard(model)
        if pin:
            self._unpins.discard(model)
            if not terms.pinned:
                self._pins.add(model)

    def follow(self, old: Mapping[str, Terms], new: Mapping[str, Terms]) -> list[str]:
        """Take in the documents; returns the models that they pin and did not before.

        From then on such a pin is the document's alone, and ends with it: on a cluster an operator's becomes an annotation.
        """
        self._pins = {m for m in self._pins if m in new and not new[m].pinned}
        self._unpins = {m for m in self._unpins if m in new and (new[m].pinned or new[m].kept)}
        self._dismissed = {m for m in self._dismissed if m in new and (m in self._pins or _wishes(new[m]))}
        return [m for m, t in new.items() if t.pinned and not t.external and not (m in old and old[m].pinned)]

    # What follows -----------------------------------------------------------------------------------------------------

    def look(
        self, now: float, terms: Mapping[str, Terms], holders: Iterable[Holder], queue: Callable[[], Queue]
    ) -> list[float]:
        """Look at all that is there before a decision; returns the times at which more will be wished for."""
        holders, returning = list(holders), [t for t in terms.values() if t.return_after]
        if returning or self._dismissed:
            rows, used = queue(), max((h.last_used for h in holders), default=0.0)
            self._dismissed -= {model for model, (waiting, _, _) in rows.items() if waiting}
            self._dismissed -= {h.model for h in holders if h.staying}  # it was loaded since, for whomever
            self.quiet_since = now if self.quiet_since is None or rows else max(self.quiet_since, used)
        self.pinned = frozenset(m for m, t in terms.items() if self._is_pinned(m, t))
        return [at for t in returning if (at := self._returns_at(t)) is not None]

    def news(self, holders: Iterable[Holder], prospects: Prospects) -> list[Emit]:
        """Tell which pins have come and gone since it was asked last; who was sent away for them may come again."""
        before, self._blocking = self._blocking, frozenset(h.model for h in holders if self._keeps_others_out(h))
        if before != self._blocking:
            prospects.room_changed()
        told, self._told = self._told, self.pinned
        events = [Emit("model.pinned", model, {}) for model in sorted(self.pinned - told)]
        return [*events, *(Emit("model.unpinned", model, {}) for model in sorted(told - self.pinned))]

    def models(self, terms: Mapping[str, Terms]) -> set[str]:
        """Models that may be wished for, as of the last look."""
        return {*self.pinned, *(name for name, its in terms.items() if its.wanted or its.return_after)}

    def wish(self, model: str, terms: Terms, now: float) -> Wish:
        """Say why it should be resident now, as of the last look."""
        if terms.external or model in self._dismissed:
            return Wish.NONE
        if model in self.pinned:
            return Wish.PINNED
        if terms.wanted:
            return Wish.SCHEDULED
        returns_at = self._returns_at(terms)
        return Wish.DEFAULT if returns_at is not None and now >= returns_at else Wish.NONE

    def reason(self, model: str, terms: Terms, now: float) -> str:
        """Say why a switch to it was made that nobody asked for."""
        return _REASONS[self.wish(model, terms, now)]

    def stays_idle(self, holder: Holder) -> bool:
        """Whether it keeps its seat however long it is idle: else it would go for that, and come back for the wish."""
        model, terms = holder.model, holder.terms
        if holder.replica > 1 or model in self._dismissed:
            return False
        return model in self.pinned or terms.wanted or terms.return_after > 0

    def no_room(
        self,
        model: str,
        claim: Claim,
        capacity: Capacity,
        holders: Iterable[Holder],
        *,
        now: float,
        epoch: int,
        groups: Groups = UNGROUPED,
    ) -> Refusal | None:
        """Say why no switch could make room for a model, if that is so: for what there is, or for those that are pinned."""
        holders = list(holders)
        refusal = shortage(model, claim, capacity, holders, now=now, epoch=epoch, groups=groups)
        if refusal or not self._blocking:
            return refusal

        def remains(holder: Holder) -> bool:
            kept = self._keeps_others_out(holder) or (holder.staying and not groups.may_leave(holder.seat, model))
            return holder.model != model and not holder.asleep and (kept or holder.state is SeatState.UNPROVEN)

        taken = [h for h in holders if remains(h)]
        allowed = groups.allows(model, (h.model for h in taken))
        if allowed and claim.fits_beside(sum((h.occupied(capacity) for h in taken), NOTHING), capacity):
            return None
        names = sorted({h.model for h in taken} & self.pinned)
        message = f"{model} does not fit beside the pinned models ({', '.join(names)}); to make room: hotseat unpin {names[0]}"
        return Refusal(epoch, "pinned", message, now + SHORTAGE_RETRY)

    def _returns_at(self, terms: Terms) -> float | None:
        """Time at which it is wished for as the default, if all stays quiet."""
        return None if not terms.return_after or self.quiet_since is None else self.quiet_since + terms.return_after

    def _is_pinned(self, model: str, terms: Terms) -> bool:
        by_terms = (terms.pinned or terms.kept) and model not in self._unpins
        return terms.external is None and (by_terms or model in self._pins)

    def _keeps_others_out(self, holder: Holder) -> bool:
        staying = holder.staying and holder.replica == 1 and holder.state is not SeatState.PARKED
        return staying and holder.model in self.pinned


def _wishes(terms: Terms) -> bool:
    return terms.pinned or terms.wanted or terms.return_after > 0
