"""Models that take more accelerator memory than they claim: what is told, and where they are placed from then on."""

import dataclasses

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceMeasured,
    InstanceReady,
    QueuedDemand,
    Start,
)
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.memory_usage import raised
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, SchedulingSpec

TWO_OF_24 = Capacity(2, 48, ("0", "1"))


class Story:
    """A machine whose models `a` and `b` claim 10 bytes of memory each."""

    def __init__(self, capacity: Capacity = TWO_OF_24) -> None:
        self.machine = Scheduler("w", Batch())
        self.terms = {name: SchedulingSpec(Claim(1, 10)) for name in ("a", "b")}
        self.told: list[Emit] = []
        self.starts: dict[str, Start] = {}
        self.seq = 0
        self.tell(ConfigChanged(0.0, self.terms, capacity))
        for name in self.terms:
            self.tell(CacheObserved(0.0, name, CacheState.CACHED))

    def tell(self, stimulus: object) -> None:
        for command in self.machine.step(stimulus):
            if isinstance(command, Emit) and command.type == "model.outgrown":
                self.told.append(command)
            elif isinstance(command, Start):
                self.starts[command.model] = command

    def want(self, now: float, *models: str) -> None:
        self.seq += 1
        waiting = {model: QueuedDemand(1, now) for model in models}
        self.tell(DemandReported(now, Demand("r", self.seq, self.machine.epoch, waiting)))

    def load(self, now: float, model: str) -> None:
        self.want(now, model)
        self.tell(InstanceReady(now, self.starts[model].instance, self.starts[model].epoch, f"http://{model}"))
        self.want(now)

    def see(self, now: float, model: str, memory: int) -> None:
        self.tell(InstanceMeasured(now, self.starts[model].instance, self.starts[model].epoch, memory))


def test_one_that_keeps_to_its_claim_is_only_noted() -> None:
    story = Story()
    story.load(1.0, "a")
    story.see(2.0, "a", 10)
    assert not story.told
    assert story.machine.memory() == {"a": 10}


def test_one_that_outgrows_its_claim_is_told_and_nothing_is_placed_on_what_it_took() -> None:
    story = Story()
    story.load(1.0, "a")
    story.see(2.0, "a", 20)
    assert story.told == [
        Emit("model.outgrown", "a", {"instance": story.starts["a"].instance, "claimed": 10, "seen": 20})
    ]
    story.load(3.0, "b")
    assert (story.starts["a"].devices, story.starts["b"].devices) == (("0",), ("1",))  # 10 would have fitted on 0


def test_it_is_not_told_again_for_a_little_more_or_for_less() -> None:
    story = Story()
    story.load(1.0, "a")
    for memory in (20, 20, 15, 20, 21):
        story.see(2.0, "a", memory)
    assert [emit.data["seen"] for emit in story.told] == [20, 21]


def test_the_claim_stays_learned_when_the_model_comes_back_and_is_forgotten_with_its_document() -> None:
    story = Story()
    story.load(1.0, "a")
    story.see(2.0, "a", 20)
    assert story.machine.parts.state.specs["a"].claim == Claim(1, 20)
    softer = {**story.terms, "a": dataclasses.replace(story.terms["a"], priority=5)}
    story.tell(ConfigChanged(3.0, softer, TWO_OF_24))
    assert story.machine.parts.state.specs["a"].claim == Claim(1, 20)
    other = {**story.terms, "a": dataclasses.replace(story.terms["a"], fingerprint="other")}
    story.tell(ConfigChanged(4.0, other, TWO_OF_24))
    assert story.machine.parts.state.specs["a"].claim == Claim(1, 10)


def test_two_that_have_grown_too_large_for_one_gpu_take_turns_on_it() -> None:
    story = Story(Capacity(1, 24, ("0",)))
    story.load(1.0, "a")
    story.load(2.0, "b")
    story.see(3.0, "a", 13)
    assert {h.state.value for h in story.machine.instances.values()} == {"ready"}
    story.see(4.0, "b", 12)
    story.want(5.0)
    story.want(5.1)
    assert sorted(h.state.value for h in story.machine.instances.values()) == ["ready", "releasing"]


def test_a_learned_claim_never_exceeds_what_a_model_can_have_by_itself() -> None:
    assert raised(Claim(1, 10), 999, TWO_OF_24) == Claim(1, 24)
    assert raised(Claim(2, 10), 999, TWO_OF_24) == Claim(2, 48)
    assert raised(Claim(1, 10), 999, Capacity(2, 48)) == Claim(1, 48)
    assert raised(Claim(1), 999, TWO_OF_24) == Claim(1)  # it has whole GPUs
    assert raised(Claim(1, 10), 999, Capacity(2)) == Claim(1, 10)  # memory is not counted
