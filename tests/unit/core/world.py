"""A simulated world around the two machines: routers, a runtime with a will of its own, a network that loses and reorders.

What really is there (instances, requests) is kept apart from what the machines believe, and every command of theirs is held
against it. A World is made of four layers, each a class that extends the one before:

- world_state.py, WorldState: instances (`Body`), requests, routers and documents, the values that they are drawn from, and
  what can be asked about them: what is pinned, what fits, what could be loaded;
- world_checks.py, CheckedWorld: `tell` sends the scheduler a stimulus and `at` a router, carries out the commands that come
  back, and asserts that each is right; `check` asserts what must hold between two stimuli;
- world_actions.py, RandomActions: what may happen, an action a method. Each takes `pick`, the source of its choices, so that
  Hypothesis can drive it (test_worlds.py) and a plain random generator too (record_worlds.py);
- this file, World: `run_fairly` lets everything arrive, load, stop and finish, and `all_ends_well` asserts that every request
  ends then. `begin` makes a World, and ACTIONS says how often each action comes.

A new stimulus gets an action and a line in ACTIONS; a new command gets a case in `tell` or `at`, with what must hold for it.
"""

from collections.abc import Mapping
from dataclasses import replace

from hotseat.core.admission.messages import Limits
from hotseat.core.messages import CacheState
from hotseat.core.scheduler.messages import Tick
from tests.unit.core.world_actions import RandomActions, _terms
from tests.unit.core.world_state import (
    ALIVE,
    CAPACITIES,
    CLAIMS,
    EXTERNAL,
    GROUPINGS,
    MEMORIES,
    MODELS,
    Pick,
    with_stories,
)

__all__ = ["ACTIONS", "CAPACITIES", "MEMORIES", "Pick", "World", "begin"]


class World(RandomActions):
    """A world that can also become fair: then everything that can end well does."""

    def run_fairly(self, seconds: float) -> None:
        """Everything arrives, loads, stops and finishes, until nothing moves or the time is over."""
        end = self.now + seconds
        for _ in range(2000):
            if self._move():
                continue
            self.tell(Tick(self.now))
            if self.mail or any(r.inbox for r in self.routers.values()) or any(b.news for b in self.bodies.values()):
                continue
            wake = self.switching.wake_at
            if wake is None or wake > end:
                self.now = end
                self.tell(Tick(self.now))
                return
            self.now = wake
            self.tell(Tick(self.now))
        raise AssertionError("it does not come to rest")

    def _move(self) -> bool:  # noqa: C901 — one paragraph for each thing that can move
        """Let everything that can happen now happen once; returns whether there was anything."""
        moved = False
        while self.crashed:
            self._say_goodbye(self.crashed.pop())
        for name, router in self.routers.items():
            while router.inbox:
                moved = True
                self._take_in(name)
        for model in sorted(self.fetching):
            moved = True
            self._fetched(model, CacheState.CACHED)
        for body in list(self.bodies.values()):
            if body.state == "dead" or (body.told and body.state in ALIVE):
                self._gone(body)
            elif body.state in ("parking", "waking"):
                self._turned(body, 3)
            elif body.state in ("saving", "restoring"):
                self._moved(body)
            elif body.state == "loading" and not body.told:
                self._ready(body)
            while body.news:
                moved = True
                self._tell_news(body)
        for id_ in [i for i, r in self.requests.items() if r.instance is not None]:
            moved = True
            self.finish_one(id_)
        mail, self.mail = self.mail, []
        for demand in mail:
            moved = True
            self._hand_over(demand)
        return moved

    @with_stories
    def all_ends_well(self) -> None:
        """In a fair world every request ends, and every model that can be loaded is, for those who ask."""
        if not self.routers:
            self.join(lambda _: 0)
        self.sign_of_life(lambda _: 0)
        self.run_fairly(1000.0)  # past every deadline and back-off
        self.check()
        assert not self.requests, f"never ended: {self.requests}"
        for model in MODELS:  # else some may find no room, ever
            if self.pinned(model):
                self._unpin(model)
        self.run_fairly(200.0)
        wanted = {model for router in self.routers.values() for model in router.machine._prewarm.snapshot()}
        left = [model for model in wanted if self.loadable(model) and not self.crowded_out(model, "no_room")]
        assert not left, f"never loaded: {wanted}"
        if self.down:
            assert not [b for b in self.bodies.values() if b.state not in ("gone", "stuck")]
            return
        asked = {model: self.submit(router, model) for _ in range(2) for model in self.terms for router in self.routers}
        started, there = self.now, {b.model for b in self._bodies("ready")}
        self.run_fairly(200.0)
        self.check()
        assert not self.requests, f"never ended: {self.requests}"
        sleeping = sum(b.memory for b in self.bodies.values())
        stuck = sum(b.memory for b in self._bodies("stuck"))
        budget = self.capacity.host_memory
        assert budget is None or sleeping <= max(budget, stuck), f"{sleeping} bytes of host memory, of {budget}"
        for model, request in asked.items():
            states = {b.state for b in self.bodies.values() if b.model == model}
            if "stuck" in states and ("ready" in states or self.terms[model].replicas > 1):
                continue  # served as long as another of its instances is there
            if self.crowded_out(model, request.end) or (request.served and model in there):
                continue
            if request.served != self.loadable(model) and request.end != "queue_full":
                raise AssertionError(f"{model} asked for at {started}: {request}")


ACTIONS: Mapping[str, int] = {  # with how often they come beside each other
    "divert": 2, "want": 1, "refuse": 1, "arrive": 12, "crowd": 3, "finish": 6, "leave": 3, "retry": 3, "expire": 1, "deliver_demand": 14,
    "lose_demand": 1, "sign_of_life": 1, "repeat_demand": 1, "deliver_residency": 14, "repeat_residency": 1,
    "become_ready": 8, "turn": 8, "measure": 4, "fail": 2, "hang": 1, "release": 8,
    "settle": 2, "observe": 4, "repeat_observation": 1, "stale_observation": 2, "fetch": 3, "order_load": 1,
    "order_fetch": 1, "order_unload": 1, "order_park": 1, "order_pin": 1, "order_unpin": 1, "open_window": 2, "change": 2, "tick": 8, "calm": 3, "join": 1, "part": 1,
    "miss": 1, "restart_switcher": 1,
}  # fmt: skip


def begin(pick: Pick) -> World:
    """A world with some models, one or more routers, and nothing loaded."""
    world = World()
    terms, limits = {"external": EXTERNAL}, {}
    world.groups = GROUPINGS[pick(len(GROUPINGS))]
    for name in MODELS[: 2 + pick(4)]:
        claim = CLAIMS[pick(len(CLAIMS))]
        replicas = (1, 2, 3)[pick(3)]
        limits[name] = Limits((0, 1, 2)[replicas - 1])
        terms[name] = replace(_terms(claim, pick), start_timeout=20.0, drain_timeout=20.3, replicas=replicas)
    world.apply(terms, limits, CAPACITIES[pick(len(CAPACITIES))], cache_first=False)
    for _ in range(1 + pick(2)):
        world.join(pick)
    return world
