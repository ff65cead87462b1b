"""The child process that fetches one source: `python -m hotseat.sources.fetch SOURCE --cache DIR`.

A process of its own, so that it can be killed at any moment and its memory goes with it. Exit status 0 with a last line
{"path": …}; or with {"error": …, "retryable": …} 1 where another try may help, and 2 where it will not.
"""

import argparse
import fcntl
import json
import sys
from pathlib import Path
from typing import Any

from hotseat.sources import hf, https, ollama, s3
from hotseat.sources.base import FILES, LOCK, SourceError, cached, complete, entry, split
from hotseat.sources.progress import Progress

RETRYABLE, HOPELESS = 1, 2  # exit status
FETCHERS = {"hf": hf.fetch, "https": https.fetch, "http": https.fetch, "ollama": ollama.fetch, "s3": s3.fetch}


def fetch(source: str, cache_dir: Path, progress: Progress) -> Path:
    """Bring a source into the cache and return its path; the second of two at once waits for the first."""
    path = cached(source, cache_dir)
    if path is not None:
        return path
    folder = entry(source, cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = cached(source, cache_dir)
        if path is None:
            path = FETCHERS[split(source)[0]](source, folder / FILES, progress)
            complete(source, cache_dir, path)
    return path


def main(argv: list[str]) -> int:
    """Fetch what the arguments name."""
    parser = argparse.ArgumentParser(prog="hotseat.sources.fetch", description="Fetch weights into a cache folder.")
    parser.add_argument("source")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--termination-log", type=Path, help="File that gets the last line too (cluster).")
    options = parser.parse_args(argv)
    progress = Progress(sys.stdout)
    last, code = _run(options.source, options.cache, progress)
    progress.say(last)
    if options.termination_log:
        options.termination_log.write_text(json.dumps(last))
    return code


def _run(source: str, cache_dir: Path, progress: Progress) -> tuple[dict[str, Any], int]:
    """Fetch, and give the last word and the exit status."""
    try:
        return {"path": str(fetch(source, cache_dir, progress))}, 0
    except SourceError as error:
        return {"error": str(error), "retryable": error.retryable}, RETRYABLE if error.retryable else HOPELESS
    except OSError as error:  # the disk is full, the cache is not ours to write …
        problem = f"{error.filename or cache_dir}: {error.strerror or error}"
        return {"error": problem, "retryable": False}, HOPELESS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
