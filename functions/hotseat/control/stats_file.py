"""The file that keeps the statistics of models over restarts, on one machine."""

import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from hotseat.coalesce import CoalescingWorker
from hotseat.control.codec import stats_from_json, stats_to_json
from hotseat.core.scheduler.stats import ModelStats, StatsByModel
from hotseat.private_files import make_directory, opener

log = logging.getLogger(__name__)

VERSION = 1
GATHER = 1.0  # seconds in which changes gather before they are written


class StatsFile:
    """Reads the file at the start and writes it soon after changes, as a whole or not at all. OS errors are logged.

    A file that cannot be parsed is renamed, and the statistics start empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # guards the statistics
        self._stats = self._read()
        self._unwritten = False
        self._worker = CoalescingWorker("statistics", self._write)
        self._writing = threading.Lock()  # one write at a time; acquired before `_lock`

    @property
    def stats(self) -> StatsByModel:
        """All statistics: those of the file and those recorded since."""
        return self._stats

    def record(self, stats: StatsByModel) -> None:
        """Update the statistics of some models. Those of others stay. From any thread."""
        with self._lock:
            before, self._stats = self._stats, {**self._stats, **stats}
            self._unwritten = self._unwritten or self._stats != before
            if self._unwritten:
                self._worker.mark(GATHER)

    def close(self) -> None:
        """Write changes that are not written yet."""
        self._worker.close()
        self._write()

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                unwritten, self._unwritten, stats = self._unwritten, False, self._stats
            if not unwritten:
                return
            text = json.dumps({"version": VERSION, "models": stats_to_json(stats)}, indent=1)
            new = self._path.with_name(f"{self._path.name}.new")
            try:
                make_directory(new.parent)  # it may have been deleted
                with open(new, "w", opener=opener) as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(self._path)
            except OSError as error:
                self._unwritten = True
                log.warning("cannot write the learned statistics: %s", error)

    def _read(self) -> dict[str, ModelStats]:
        try:
            return _parse(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("cannot read the learned statistics: %s", error)
        except ValueError as error:
            aside = self._path.with_name(f"{self._path.name}.bad")
            log.warning("renamed %s to %s and started with empty statistics: %s", self._path, aside.name, error)
            with suppress(OSError):
                self._path.replace(aside)
        return {}


def _parse(data: bytes) -> dict[str, ModelStats]:
    """Return the statistics in the file's content. Raise ValueError if it has none."""
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ValueError(f"its version is {version!r}; this hotseat reads version {VERSION}")
    return stats_from_json(content.get("models"))
