"""What may be answered when, what may stand in the log, and how hotseat looks once the load has gone."""

import json
import re
import time
from typing import TYPE_CHECKING, Any

import psutil

from .world import World

if TYPE_CHECKING:
    from .clients import Outcome

# What a client may be told, and what must have happened for that.
KILLS = (
    "kill engine",
    "kill supervisor",
    "request die-midstream:2",
)  # of what answers; the requests of others break with it
ENDS = ("kill worker", "kill arbiter", "kill all", "down", "end")  # of hotseat itself
FREEZES = ("freeze engine", "freeze hotseat")
BREAKS = ("request cut-midstream:2", "request garbage")
EXPLAINS = {
    "queue_full": ("limits",),
    "mock": ("request error-500",),
    "upstream_failed": (*KILLS, *BREAKS, *ENDS, *FREEZES),
    "model_failed": (*KILLS, *FREEZES, "disk", "faulty"),
    "model_stopped": (*KILLS, *FREEZES, "request hang"),
    "unloaded": ("unload",),
    "pinned": ("pin",),
    "shutting_down": ENDS,
    "not_ready": ENDS,
    "no_room": ("persistent",),
}
BACKOFF = 30.0  # seconds for which a failure of a model may explain that it is left alone


def unexpected(world: World, outcome: "Outcome") -> str | None:
    """Why a request should not have ended so; None where all is well."""
    end, begin, ask = time.monotonic(), outcome.begin, outcome.ask
    about = f"{outcome.name} ({outcome.key}, {end - begin:.2f} s): {outcome.detail}"
    model = outcome.name.removesuffix("-alias")
    if outcome.kind == "ok":
        fallback = outcome.headers.get("X-Hotseat-Fallback", "")
        told = ask is not None and "X-Hotseat-Loading" in ask.headers  # in a comment; headers have gone by then
        right = outcome.detail == model or f"fallback={outcome.detail}" in fallback or told
        return None if right else f"answered by {outcome.detail}: {about}"
    if outcome.kind in ("hung", "short"):
        return f"{outcome.kind}: {about}"
    code = "upstream_failed" if outcome.kind == "broken" else outcome.code
    if code in ("wait_timeout", "deadline_unreachable"):
        fine = ask is not None and ask.headers.keys() & {"X-Hotseat-Max-Wait", "X-Request-Timeout"}
    elif code == "model_switching_in_progress":
        fine = ask is not None and ask.headers.get("X-Hotseat-Loading") == "refuse"
    elif code == "model_not_found":
        fine = world.was_absent(outcome.name, begin, end)
    else:
        fine = outcome.kind == "left" or _explained(world, code, begin, end, model)
    return None if fine else f"unexpected: {about}"


def _explained(world: World, code: str, begin: float, end: float, model: str) -> bool:
    """Whether something that was done, or the documents, explain such an answer."""
    kinds = EXPLAINS.get(code, ())
    casts, models = world.casts(begin, end), {model}
    for cast in casts:
        models |= cast.answerers(model)
    if "faulty" in kinds and any(models & cast.faulty() for cast in world.casts(begin - BACKOFF, end)):
        return True
    if "limits" in kinds and any("queue" in spec for cast in casts for spec in cast.workspaces.values()):
        return True
    if "pin" in kinds and any(cast.pinned for cast in casts):
        return True
    since = begin - (BACKOFF if code == "model_failed" else 0.5)
    return world.faulted(kinds, since, end, models)


# The log --------------------------------------------------------------------------------------------------------------

EXPECTED = [  # what a line of the log says, and the faults that explain it
    (r"Worker \(pid:\d+\) was sent SIG", ("kill worker",)),
    # The message says why, as clients are told it.
    (r"spec\.activeModel \S+ was not loaded: ", (*KILLS, *FREEZES, *EXPLAINS["unloaded"], *EXPLAINS["pinned"], "disk")),
    (r"cannot write the history .*: (database or disk is full|disk I/O error|unable to open database file)", ("disk",)),
    (r"the history .* is written again; \d+ rows have been lost", ("disk",)),
    (r"cannot (write|be written|start).*No space left on device", ("disk",)),
]


class Log:
    """Hotseat's own log, read as it grows."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._read = 0
        self._since = time.monotonic()

    def look(self) -> None:
        """Complain about what is new there and should not be."""
        path = self.world.folder / "stderr"
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        since, self._since = self._since, time.monotonic()
        for line in whole.decode("utf-8", "replace").splitlines():
            if _is_bad(line) and not self._expected(line, since):
                self.world.violate(f"log: {_short(line)}")

    def _expected(self, line: str, since: float) -> bool:
        return any(re.search(text, line) and self.world.faulted(kinds, since - 15) for text, kinds in EXPECTED)


def _is_bad(line: str) -> bool:
    """Whether a line is more than news; what is no JSON comes from gunicorn, or from an interpreter that breaks down."""
    try:
        record = json.loads(line)
    except ValueError:
        return bool(line.strip())
    return record["level"] not in ("debug", "info")


def _short(line: str) -> str:
    """What a line says, and how its traceback ends."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    where = record.get("exception", "").splitlines()
    return " … ".join([record["message"], *(each.strip() for each in where[-3:])])


def met(world: World) -> list[str]:
    """Lines of engines that found another where they were let in."""
    words = ("is taken by", "seats missing")
    found = []
    for path in (world.state / "logs").glob("*.log*"):
        found += [line for line in path.read_text(errors="replace").splitlines() if any(word in line for word in words)]
    return found


# The state ------------------------------------------------------------------------------------------------------------


def together(rows: list[dict[str, Any]]) -> str | None:
    """Whether two instances hold one GPU, by what hotseat itself tells; no Model of a soak shares one."""
    instances: dict[str, str] = {}
    for row in rows:
        if row["state"] == "releasing":  # what slept before has no GPU any more
            continue
        for device in row["devices"]:
            if device in instances:
                return f"{row['instance']} ({row['state']}) and {instances[device]} are both on GPU {device}"
            instances[device] = f"{row['instance']} ({row['state']})"
    return None


MORE_THREADS = 3 + 8  # the pool for followers keeps 8 idle threads, of which some are not there at first
MORE_FILES = 6
MORE_MEMORY = 24 * 2**20  # while histories, and metrics of each pair of models, still fill
FILLED = 16  # looks after which they are about full
MORE_THEN = 8 * 2**20


class Sizes:
    """What hotseat's processes take once the load has gone: after the first time it must stay so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._seen: dict[psutil.Process, list[tuple[int, int, int]]] = {}  # threads, files, bytes

    def look(self, pids: dict[str, int]) -> str:
        """Compare arbiter and worker with earlier looks at each; their sizes as text."""
        told = []
        for name, pid in pids.items():
            process = psutil.Process(pid)
            now = (process.num_threads(), process.num_fds(), process.memory_info().rss)
            seen = self._seen.setdefault(process, [])
            seen.append(now)
            told.append(f"{name} {now[0]} threads, {now[1]} files, {now[2] / 2**20:.1f} MiB")
            most = (MORE_THREADS, MORE_FILES, MORE_MEMORY)
            grown = [*zip(("threads", "files", "bytes"), seen[0], now, most, strict=True)]
            if len(seen) > FILLED:
                grown.append(("bytes", seen[FILLED][2], now[2], MORE_THEN))
            for what, before, after, more in grown:
                if after > before + more:
                    self.world.violate(f"the {name} has grown: {before} {what} before, {after} now")
        return "; ".join(told)
