"""The child process that fetches one source: `python -m hotseat.sources.fetch SOURCE --cache DIR`.

A process of its own, so that it can be killed at any moment and its memory goes with it. Exit status 0 with a last line
{"path": …}, or 1 with {"error": …, "retryable": …}.
"""

import argparse
import fcntl
import sys
from pathlib import Path

from hotseat.sources import hf, https, ollama
from hotseat.sources.base import FILES, LOCK, SourceError, cached, complete, entry, split
from hotseat.sources.progress import Progress

FETCHERS = {"hf": hf.fetch, "https": https.fetch, "http": https.fetch, "ollama": ollama.fetch}


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
    options = parser.parse_args(argv)
    progress = Progress(sys.stdout)
    try:
        path = fetch(options.source, options.cache, progress)
    except SourceError as error:
        progress.say({"error": str(error), "retryable": error.retryable})
        return 1
    except OSError as error:  # the disk is full, the cache is not ours to write …
        progress.say({"error": str(error), "retryable": False})
        return 1
    progress.say({"path": str(path)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
