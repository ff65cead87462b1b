"""Random documents and random edits of them: valid ones, with times that are short and bounded.

Everything is drawn from the generator that is passed in, so that a seed gives the same documents again.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.embedded.harness import Document, model, workspace

GPUS = 4
NAMES = [f"m{number}" for number in range(8)]
WORKSPACES = ["default", *(f"w{number}" for number in range(100))]  # so many that what one leaves behind is seen
LONGEST_ANSWER = 1.2  # seconds, of what clients ask for
PROOF = 10.0  # seconds after which a seat that cannot be proven free is said to be unproven
FAULTS = (
    "never-ready", "exit-loading", "hang-stop", "sleep-fails", "sleep-hangs", "sleep-lies", "die-asleep",
    "wake-fails", "wake-hangs", "die-waking",
)  # fmt: skip
PROMPT_FAULTS = ("save-fails", "save-hangs", "die-saving", "restore-fails", "restore-hangs", "die-restoring")
PROMPT_TIME = 0.4  # seconds, the bound on saving and on restoring
REST = [model("rest-a"), model("rest-b")]  # what is served while everything is looked at
BEFORE_REST = [
    model("rest-a", description="soon"),
    model("rest-b"),
]  # logs of what is removed are closed with the edit after it

Spec = dict[str, Any]


def _seconds(value: float) -> str:
    return f"{round(value * 1000)}ms"


def _duration(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000


@dataclass
class Cast:
    """The documents of a moment: specs by name, valid after `settle`."""

    workspaces: dict[str, Spec] = field(default_factory=dict)
    models: dict[str, Spec] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def documents(self) -> list[Document]:
        """All of them, as a file has them."""
        found = [workspace(name, **spec) for name, spec in self.workspaces.items()]
        for name, spec in self.models.items():
            document = model(name, *spec["args"], **{key: spec[key] for key in spec if key != "args"})
            if name in self.pinned:
                document["metadata"]["annotations"] = {"hotseat.dev/pinned": "true"}
            found.append(document)
        return found

    def names(self) -> frozenset[str]:
        """All names that a client may send."""
        return frozenset(self.models) | {each for spec in self.models.values() for each in spec.get("names", ())}

    def faulty(self) -> frozenset[str]:
        """Names of models whose engines are told to fail."""
        return frozenset(name for name, spec in self.models.items() if "--fault" in spec["args"])

    def answerers(self, model: str) -> set[str]:
        """The model and all its fallbacks."""
        found = {model}
        while (model := self.models.get(model, {}).get("fallback", {}).get("model", "")) and model not in found:
            found.add(model)
        return found

    def patience(self) -> float:
        """Seconds after which the last of a few clients has an answer, whatever has to load, stop and be waited for before."""
        total = 10.0
        for spec in self.models.values():
            life = spec["lifecycle"]
            times = [life["startTimeout"], life["drainTimeout"], life["stopTimeout"], life["stopTimeout"]]
            total += sum(map(_duration, times)) + LONGEST_ANSWER + 2 * PROMPT_TIME
            total += _duration(spec.get("scheduling", {}).get("minResidency", "0ms"))
        waits = [spec["policy"]["maxWait"] for spec in self.workspaces.values()]
        waits += [spec.get("scheduling", {}).get("maxWait", "0ms") for spec in self.models.values()]
        return total + max(map(_duration, waits)) + PROOF

    def settle(self) -> "Cast":
        """Mend what an edit has left pointing at nothing."""
        for spec in self.models.values():
            if spec["workspace"] not in self.workspaces:
                spec["workspace"] = next(iter(self.workspaces))
            gpus = self.workspaces[spec["workspace"]]["capacity"]["gpus"]
            spec["resources"]["gpus"] = min(spec["resources"]["gpus"], gpus)
            if spec.get("fallback", {}).get("model") not in self.models:
                spec.pop("fallback", None)
        for name, spec in self.workspaces.items():
            mine = {model for model, each in self.models.items() if each["workspace"] == name}
            if spec.get("defaultModel") not in mine:
                spec.pop("defaultModel", None)
                spec.pop("returnToDefault", None)
            if spec.get("activeModel") not in mine:
                spec.pop("activeModel", None)
            for group in spec.get("groups", ()):
                group["members"] = [member for member in group["members"] if member in mine]
            spec["groups"] = [group for group in spec.get("groups", ()) if group["members"]]
        self.pinned &= self.models.keys()
        return self


def random_cast(rng: Random, *, faulty: bool) -> Cast:
    """Some Workspaces and Models; with `faulty`, engines of some fail."""
    left, cast = GPUS, Cast()
    names = ["default", *rng.sample(WORKSPACES[1:], 3)]
    for name in names[rng.randint(0, 1) :][: rng.randint(1, 3)]:
        gpus = min(left - (2 - len(cast.workspaces)), rng.choice((1, 1, 1, 2, 2)))
        left -= gpus
        cast.workspaces[name] = random_workspace(rng, gpus)
    for name in sorted(rng.sample(NAMES, rng.randint(3, 7))):
        cast.models[name] = random_model(rng, name, cast, faulty=faulty)
    for name in cast.workspaces:
        regroup(rng, name, cast)
    return cast.settle()


def impatient_cast(rng: Random) -> Cast:
    """Few models on one GPU that load equally long, for clients that wait little longer than one load."""
    cast, load = Cast({"default": {"capacity": {"gpus": 1}, "policy": {"maxWait": "30000ms"}}}), rng.uniform(0.4, 0.8)
    for name in NAMES[: rng.randint(2, 3)]:
        times = {"startTimeout": "5000ms", "drainTimeout": "3000ms", "stopTimeout": "1000ms"}
        args = ["--load-time", str(load)]
        cast.models[name] = {"args": args, "workspace": "default", "resources": {"gpus": 1}, "lifecycle": times}
    return cast


def random_workspace(rng: Random, gpus: int) -> Spec:
    """Spec of a Workspace with that many GPUs."""
    policy = {
        "name": rng.choice(("batch", "batch", "batch", "fifo", "priority")),
        "maxWait": _seconds(rng.choice((0, 0.5, 2, 5))),
        "ageing": _seconds(rng.choice((1, 30))),
    }
    spec: Spec = {"capacity": {"gpus": gpus}, "policy": policy}
    if rng.random() < 0.3:
        spec["capacity"]["hostMemory"] = rng.choice(("0", "60Mi", "10Gi"))
    if rng.random() < 0.2:
        spec["queue"] = {"maxWaiting": rng.choice((3, 10)), "maxWaitingPerModel": 5}
    if rng.random() < 0.2:
        spec["tenants"] = {"header": "X-Tenant", "weights": {"t0": 3}}
    if rng.random() < 0.2:
        spec |= {"returnToDefault": _seconds(rng.uniform(0.5, 2)), "defaultModel": rng.choice(NAMES)}
    if rng.random() < 0.2:
        spec["activeModel"] = rng.choice(NAMES)
    prompts: Spec = {"timeout": _seconds(PROMPT_TIME), "keepAtExit": rng.random() < 0.3}
    if rng.random() < 0.7:
        prompts["storage"] = rng.choice(("Off", "Memory", "Memory", "Disk", "Disk"))
    if rng.random() < 0.6:
        prompts["budget"] = rng.choice(("20k", "200k", "5M"))
    spec["promptCache"] = prompts
    return spec


def random_model(rng: Random, name: str, cast: Cast, *, faulty: bool) -> Spec:
    """Spec of a Model in one of the Workspaces of the cast."""
    park = rng.random() < 0.4
    args = [
        "--load-time",
        f"{rng.choice((0.05, 0.2, 0.2, 0.5, 1.2)):.2f}",
        "--stop-time",
        f"{rng.choice((0, 0, 0.3)):.2f}",
    ]
    args += ["--sleep-time", f"{rng.choice((0, 0.2))}", "--wake-time", f"{rng.choice((0, 0.3))}"] if park else []
    args += ["--child"] if rng.random() < 0.15 else []
    args += ["--listen-late"] if rng.random() < 0.2 else []
    args += ["--fault", rng.choice(FAULTS)] if faulty and rng.random() < 0.2 else []
    if rng.random() < 0.7:
        args += ["--slots", f"{rng.choice((1, 2, 4))}", "--token-bytes", f"{rng.choice((100, 100_000))}"]
        args += ["--save-time", f"{rng.choice((0, 0, 0.1, 0.5))}", "--restore-time", f"{rng.choice((0, 0.1))}"]
        args += ["--fault", rng.choice(PROMPT_FAULTS)] if faulty and rng.random() < 0.3 else []
    lifecycle = {
        "idleTimeout": _seconds(rng.choice((0, 0, 0, 0.5, 2))),
        "release": "Park" if park else "Stop",
        "startTimeout": _seconds(rng.choice((4, 6))),
        "drainTimeout": "4000ms",  # more than any answer takes
        "stopTimeout": _seconds(rng.choice((0.5, 1))),
        "preload": rng.random() < 0.1,
    }
    spec: Spec = {
        "args": args,
        "workspace": rng.choice(sorted(cast.workspaces)),
        "resources": {"gpus": rng.choice((0, 1, 1, 1, 1, 2))},
        "lifecycle": lifecycle,
        "scheduling": {
            "priority": rng.choice((0, 0, 0, 5)),
            "minResidency": _seconds(rng.choice((0, 0, 0.5))),
            "maxWait": _seconds(rng.choice((0.5, 2, 5))),
        },
    }
    if rng.random() < 0.4:
        spec["concurrency"] = rng.choice((1, 2, 4))
        spec["scheduling"]["replicas"] = rng.choice((1, 2, 3))
    if rng.random() < 0.3:
        spec["names"] = [name, f"{name}-alias"]
    if rng.random() < 0.2:
        spec["stopCommand"] = rng.choice((["/bin/true"], ["/bin/sleep", "0.1"]))
    if rng.random() < 0.25 and name != NAMES[-1]:  # to a later one only, so that none goes round in a circle
        later = NAMES[NAMES.index(name) + 1 :]
        spec["fallback"] = {"model": rng.choice(later), "after": _seconds(rng.choice((0.1, 1)))}
    return spec


def regroup(rng: Random, name: str, cast: Cast) -> None:
    """Give a Workspace groups, or none."""
    mine = [model for model, spec in cast.models.items() if spec["workspace"] == name]
    cast.workspaces[name].pop("groups", None)
    if rng.random() < 0.2 and len(mine) > 1:
        cut = rng.randint(1, len(mine) - 1)
        flags = {"swap": rng.random() < 0.5, "exclusive": rng.random() < 0.5}
        cast.workspaces[name]["groups"] = [
            {"name": "first", "members": mine[:cut], **flags},
            {"name": "second", "members": mine[cut:]},
        ]


# Edits ----------------------------------------------------------------------------------------------------------------


def _add(rng: Random, cast: Cast, faulty: bool) -> str:
    free = [name for name in NAMES if name not in cast.models]
    if not free:
        return "nothing"
    name = rng.choice(free)
    cast.models[name] = random_model(rng, name, cast, faulty=faulty)
    return f"add {name}"


def _remove(rng: Random, cast: Cast, faulty: bool) -> str:
    if len(cast.models) < 3:
        return "nothing"
    name = rng.choice(sorted(cast.models))
    del cast.models[name]
    return f"remove {name}"


def _replace(rng: Random, cast: Cast, faulty: bool) -> str:
    name = rng.choice(sorted(cast.models))
    cast.models[name] = random_model(rng, name, cast, faulty=faulty)
    return f"replace {name}"


def _describe(rng: Random, cast: Cast, faulty: bool) -> str:
    name = rng.choice(sorted(cast.models))
    cast.models[name]["description"] = f"edit {rng.random()}"
    return f"describe {name}"


def _move(rng: Random, cast: Cast, faulty: bool) -> str:
    name = rng.choice(sorted(cast.models))
    cast.models[name]["workspace"] = rng.choice(sorted(cast.workspaces))
    return f"move {name} to {cast.models[name]['workspace']}"


def _rename(rng: Random, cast: Cast, faulty: bool) -> str:
    old, new = rng.choice(sorted(cast.workspaces)), rng.choice(WORKSPACES)
    if new in cast.workspaces:
        return "nothing"
    cast.workspaces[new] = cast.workspaces.pop(old)
    for spec in cast.models.values():
        spec["workspace"] = new if spec["workspace"] == old else spec["workspace"]
    return f"rename workspace {old} to {new}"


def _change_workspace(rng: Random, cast: Cast, faulty: bool) -> str:
    name = rng.choice(sorted(cast.workspaces))
    used = (
        sum(spec["capacity"]["gpus"] for spec in cast.workspaces.values()) - cast.workspaces[name]["capacity"]["gpus"]
    )
    cast.workspaces[name] = random_workspace(rng, rng.randint(1, min(3, GPUS - used)))
    regroup(rng, name, cast)
    return f"change workspace {name}"


def _pin(rng: Random, cast: Cast, faulty: bool) -> str:
    name = rng.choice(sorted(cast.models))
    cast.pinned ^= {name}
    return f"annotation pinned of {name}"


def _same(rng: Random, cast: Cast, faulty: bool) -> str:
    return "nothing"


EDITS: tuple[Callable[[Random, Cast, bool], str], ...] = (
    _add, _add, _remove, _replace, _describe, _describe, _move, _rename, _change_workspace, _pin, _same,
)  # fmt: skip


def edit(rng: Random, cast: Cast, *, faulty: bool) -> tuple[str, Cast]:
    """Make one edit; what it was, and the new documents."""
    changed = copy.deepcopy(cast)
    what = rng.choice(EDITS)(rng, changed, faulty)
    return what, changed.settle()
