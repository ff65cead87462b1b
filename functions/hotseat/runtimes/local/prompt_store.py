"""The files of saved prompt caches on one machine: where they are, how much they may take, and when they go.

Each Model has a directory with a file for each slot that was saved. They hold what users wrote and what
engines answered, as tokens and as the state that was computed from them. So directories have mode
0700 and files 0600. `prompts.json` in the state directory lists the files that outlive this process;
all others are deleted at the next start.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from hotseat.private_files import make_directory, opener
from hotseat.runtimes.prompt_transfer import Rates

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the file system in memory that every Linux has
MEMORY_SHARE = 2  # no file is written to memory that would take more than this part (1/n) of what is available

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How the prompts of a Workspace are kept: on disk or in memory, for so many seconds, and after hotseat's end or not."""

    on_disk: bool
    keep: float
    at_exit: bool


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """A slot that was saved to `file`."""

    workspace: str
    model: str
    slot: int
    file: str  # path
    identity: str  # of the engine and weights that can restore it
    tokens: int
    size: int  # bytes
    used_at: float  # when it was saved or restored last, in seconds since 1970


class PromptStore:
    """The saved slots of all Models. Methods can be called from any thread."""

    def __init__(self, state_dir: Path, memory: Path = SHARED_MEMORY, clock: Callable[[], float] = time.time) -> None:
        mark = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:12]
        self._roots = {True: state_dir.absolute() / "prompts", False: memory / f"hotseat-{os.geteuid()}-{mark}"}
        self._index = state_dir.absolute() / "prompts.json"
        self._clock = clock
        self._lock = threading.RLock()
        self._settings: Mapping[str, PromptSettings] = {}  # by Workspace; those that keep none are missing
        self._limits: dict[str, int] = {}  # by Workspace, in bytes
        self._models: Mapping[str, str] = {}  # the Workspace of each Model
        self._begun = False
        self._slots: list[SavedSlot] = []
        self._timer: threading.Timer | None = None  # deletes what is too old
        self.rates: dict[str, Rates] = {}  # by Model

    # Configuration ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take over what an earlier process kept, and delete all else that it left. Its lock must be held."""
        with self._lock:
            self._begun = True
            self._slots = [each for each in self._read() if self._outlives(each)]
            self._delete_unknown()
            self._changed()

    def configure(self, settings: Mapping[str, PromptSettings]) -> None:
        """Set how the prompts of each Workspace are kept. What was kept in another way is deleted."""
        with self._lock:
            self._settings = dict(settings)
            self._drop([each for each in self._slots if self._misplaced(each)])
            self._expire()
            if self._begun:  # else it could be the list of another hotseat
                self._changed()

    def keep_models(self, models: Mapping[str, str]) -> None:
        """Delete what belongs to no Model any more. `models`: the Workspace of each Model."""
        with self._lock:
            self._models = dict(models)
            self._drop([each for each in self._slots if self._misplaced(each)])
            for model in self.rates.keys() - models.keys():
                del self.rates[model]

    def set_limit(self, workspace: str, size: int) -> list[SavedSlot]:
        """Keep at most so many bytes of a Workspace. Return what was deleted for that."""
        with self._lock:
            self._limits[workspace] = size
            return self.trim(workspace)

    def directory(self, workspace: str, model: str) -> Path | None:
        """Return the directory for the files of a Model, which exists then. None: its prompts are not kept."""
        with self._lock:
            settings = self._settings.get(workspace)
        if settings is None:
            return None
        path = self._roots[settings.on_disk]
        try:
            make_directory(path)
            if not _is_own(path) or path.stat().st_mode & 0o077:
                raise PermissionError(f"{path} is not a directory that only its owner can read")
            for part in (workspace, model):
                path /= part
                make_directory(path)
        except OSError as problem:
            log.warning("the prompt cache of %s cannot be kept: %s", model, problem)
            return None
        return path

    def rates_of(self, model: str) -> Rates:
        """Return what was measured of a Model."""
        return self.rates.setdefault(model, Rates())

    # Slots ------------------------------------------------------------------------------------------------------------

    def of(self, model: str) -> list[SavedSlot]:
        """Return the saved slots of a Model, the newest first, and of those the longest."""
        with self._lock:
            self._expire()
            return sorted((each for each in self._slots if each.model == model), key=_last_to_go, reverse=True)

    def drop_others(self, model: str, identity: str) -> list[SavedSlot]:
        """Delete the slots of a Model that another engine, or one with other weights, has saved. Return them."""
        return self.drop(each for each in self.of(model) if each.identity != identity)

    def room(self, workspace: str) -> int:
        """Return how many bytes a file of a Workspace may have: all others are deleted before for it if necessary."""
        with self._lock:
            return self._free(workspace) + self._held(workspace)

    def add(self, new: SavedSlot) -> list[SavedSlot]:
        """Add a file that was written, instead of the last one of its slot. Return what was deleted to keep the limit."""
        with self._lock:
            if self._misplaced(new):  # the documents have changed since its engine was started
                _delete(Path(new.file))
                return []
            Path(new.file).chmod(0o600)
            self._drop([each for each in self._slots if (each.model, each.slot) == (new.model, new.slot)])
            self._slots.append(new)
            dropped = self.trim(new.workspace)
            self._changed()
            return dropped

    def touch(self, used: SavedSlot, now: float) -> None:
        """Record that a slot was restored. `now`: seconds since 1970, the same for all that are restored together."""
        with self._lock:
            self._slots = [replace(each, used_at=now) if each == used else each for each in self._slots]
            self._changed()

    def make_room(self, workspace: str, size: int, replaced: SavedSlot | None = None) -> list[SavedSlot]:
        """Delete the least recently used slots of a Workspace until a file of this size fits. Return them.

        The slot that the file replaces goes before them, and is not returned.
        """
        with self._lock:
            if replaced is not None and size > self._free(workspace):
                self._drop([replaced])
            return self._delete_oldest(workspace, size - self._free(workspace))

    def trim(self, workspace: str, written: int = 0) -> list[SavedSlot]:
        """Delete what exceeds the limit of a Workspace beside a file that is being written. Return it."""
        with self._lock:
            return self._delete_oldest(workspace, self._held(workspace) + written - self._limits.get(workspace, 0))

    def drop(self, slots: Iterable[SavedSlot]) -> list[SavedSlot]:
        """Delete these slots, and return those that were there."""
        with self._lock:
            return self._drop(slots)

    def sweep(self, workspace: str, model: str, prefix: str) -> None:
        """Delete the files of a Model that were not added, such as those of an engine that was ended while it wrote."""
        with self._lock:
            known = {each.file for each in self._slots}
            for root in filter(_is_own, self._roots.values()):
                for path in (root / workspace / model).glob(f"{prefix}*"):
                    if str(path) not in known:
                        _delete(path)

    def all(self) -> list[SavedSlot]:
        """Return all saved slots."""
        with self._lock:
            self._expire()
            return list(self._slots)

    def close(self) -> None:
        """Delete what does not outlive this process."""
        with self._lock:
            if not self._begun:
                return  # the files may be those of another hotseat with this state directory
            self._drop([each for each in self._slots if not self._outlives(each)])
            self._delete_unknown()
            if self._timer is not None:
                self._timer.cancel()

    # Under the lock ---------------------------------------------------------------------------------------------------

    def _delete_unknown(self) -> None:
        known, roots = {each.file for each in self._slots}, [*filter(_is_own, self._roots.values())]
        for path in [path for root in roots for path in _files(root) if str(path) not in known]:
            _delete(path)
        for folder in [path for root in roots for path, _, _ in os.walk(root, topdown=False)]:
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()

    def _outlives(self, each: SavedSlot) -> bool:
        settings = self._settings.get(each.workspace)
        return settings is not None and settings.at_exit and not self._misplaced(each) and not self._too_old(each)

    def _misplaced(self, each: SavedSlot) -> bool:
        settings = self._settings.get(each.workspace)
        if settings is None or self._models.get(each.model) != each.workspace:
            return True
        return not Path(each.file).is_relative_to(self._roots[settings.on_disk])

    def _too_old(self, each: SavedSlot) -> bool:
        return self._clock() >= each.used_at + self._settings[each.workspace].keep

    def _held(self, workspace: str) -> int:
        return sum(each.size for each in self._slots if each.workspace == workspace)

    def _free(self, workspace: str) -> int:
        """Return how many bytes can be written beside those that are held. Less than 0: too many are."""
        settings = self._settings.get(workspace)
        if settings is None:  # its document was deleted or renamed while an engine of it saves
            return 0
        free = self._limits.get(workspace, 0) - self._held(workspace)
        with suppress(OSError):
            free = min(free, shutil.disk_usage(self._roots[settings.on_disk]).free)
        return free if settings.on_disk else min(free, psutil.virtual_memory().available // MEMORY_SHARE)

    def _delete_oldest(self, workspace: str, over: int) -> list[SavedSlot]:
        """Delete the least recently used slots of a Workspace that have so many bytes together."""
        victims: list[SavedSlot] = []
        for each in sorted((each for each in self._slots if each.workspace == workspace), key=_last_to_go):
            if over > 0:
                victims.append(each)
                over -= each.size
        return self._drop(victims)

    def _expire(self) -> None:
        self._drop([each for each in self._slots if self._too_old(each)])

    def _drop(self, slots: Iterable[SavedSlot]) -> list[SavedSlot]:
        gone = [each for each in slots if each in self._slots]
        for each in gone:
            self._slots.remove(each)
            _delete(Path(each.file))
        if gone:
            self._changed()
        return gone

    def _end_of_time(self) -> None:
        with self._lock:
            self._expire()
            self._set_timer()  # again where the clock was set back

    def _set_timer(self) -> None:
        """Set the timer for the oldest slot."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._slots:
            until = min(each.used_at + self._settings[each.workspace].keep for each in self._slots)
            self._timer = threading.Timer(max(0.0, until - self._clock()) + 1.0, self._end_of_time)
            self._timer.daemon = True
            with suppress(RuntimeError):  # no thread can be started now; the next change tries again
                self._timer.start()

    def _changed(self) -> None:
        """Write the index, and set the timer."""
        self._set_timer()
        rows = [asdict(each) for each in self._slots if self._settings[each.workspace].at_exit]
        if not rows:
            _delete(self._index)
            return
        new = self._index.with_suffix(".new")
        try:
            with open(new, "w", opener=opener) as file:
                json.dump(rows, file)
            new.replace(self._index)
        except OSError as problem:
            log.warning(
                "the list of saved prompts cannot be written, so they are deleted at the next start: %s", problem
            )

    def _read(self) -> list[SavedSlot]:
        try:
            rows = [SavedSlot(**row) for row in json.loads(self._index.read_bytes())]
            return [each for each in rows if size_of(Path(each.file)) == each.size]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as problem:
            log.warning("the list of saved prompts cannot be read, so they are deleted: %s", problem)
            return []


def memory_room() -> int:
    """Return the size of the file system in memory; 0 if there is none that can be written to."""
    if not os.path.ismount(SHARED_MEMORY) or not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    return shutil.disk_usage(SHARED_MEMORY).total


def _last_to_go(each: SavedSlot) -> tuple[float, int]:
    return each.used_at, each.tokens


def _is_own(path: Path) -> bool:
    """Whether a path is a directory of this user, and not a link to one. In /dev/shm, anyone could have put it there."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def size_of(path: Path) -> int | None:
    """Return the bytes of a file; None if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _delete(path: Path) -> None:
    """Delete a file. That is tried again at the next start, if it cannot be done now."""
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        log.warning("a saved prompt cache cannot be deleted: %s", problem)


def _files(root: Path) -> Iterator[Path]:
    for path, _, names in os.walk(root):
        for name in names:
            yield Path(path, name)
