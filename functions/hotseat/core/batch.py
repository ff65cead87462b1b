"""The policy that hotseat has by default. Pure."""

from hotseat.core.placing import evictable_at, residents, seat, those_wanting
from hotseat.core.policy import Decision, ModelView, View

# A bound on waiting below what one round of switches costs cannot be met; honouring it all the same is what makes
# throughput collapse. The factor is the one that polling systems with switch-over times ask for at moderate load.
WIDEN = 1.5


class Batch:
    """Serve what is resident while it has work, then the model whose waiter is oldest, within a bound on waiting.

    A waiter older than the bound closes the resident's batch: what the resident held is still served, later requests wait
    for its next turn. Once ready, a model keeps its seat for its minimum residency, used or not. A switch that has been
    decided is not taken back while somebody still waits for it, whoever else comes: otherwise a model would be stopped for
    one and then loaded again for another.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        kept, held = residents(view)
        wanting = those_wanting(view)
        widened = WIDEN * sum(m.switch_cost for m in view.models if m.waiting or (m.name in kept and m.in_flight))
        bounds = {m.name: max(m.max_wait, widened) for m in wanting}
        due = {m.name: m.oldest + bounds[m.name] for m in wanting}

        def order(model: ModelView) -> tuple[bool, bool, bool, int, float, str]:
            overdue = due[model.name] <= view.now
            priority = 0 if overdue else -model.priority
            return (not model.may_evict, not model.promised, not overdue, priority, model.oldest, model.name)

        def free_at(resident: ModelView, waiter: ModelView) -> float:
            return evictable_at(resident, due[waiter.name])

        resident, look_again = seat(view, kept, held, sorted(wanting, key=order), free_at=free_at, alarms=due.values())
        return Decision(resident, look_again, max(bounds.values(), default=None))
