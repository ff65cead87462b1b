"""Models of a folder: each GGUF file is one, with its projector, and with all parts if it is split."""

import json
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotseat.api.types import API_VERSION, Json
from hotseat.importing.models import labels
from hotseat.manifests.files import Text, name_of
from hotseat.manifests.problems import Problem

SETTLED = 2.0  # seconds without a change after which a file is complete: it may be copied or fetched for an hour
MAX_DEPTH = 8  # of folders
_SPLIT = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_PROJECTOR = "mmproj"
_DRAFTS = ("mtp-", "dspark-", "dflash-")  # of llama.cpp: smaller models beside another one
# What follows the name of a model in that of its projector.
_PRECISION = re.compile(r"([-_.](f16|bf16|f32|fp16|fp32|i?q\d\w*|model|gguf))+$")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file with its path below the folder. `changed` is in seconds of Unix time."""

    path: Path
    below: Path
    size: int
    changed: float

    @property
    def stem(self) -> str:
        """Return the name of its model: that of the file, without its end and the number of its part."""
        return _SPLIT.sub("", self.below.stem)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A Model of a file. The first of its names is shown."""

    file: GgufFile
    names: tuple[str, ...]
    projector: GgufFile | None = None


def gguf_files(folder: Path) -> list[GgufFile]:
    """Return the GGUF files in a folder, and then in its folders, without hidden ones. Raise OSError if it cannot be read."""
    return sorted(_walk(folder, Path(), frozenset()), key=lambda file: (len(file.below.parts), file.below))


def _walk(folder: Path, below: Path, above: frozenset[str]) -> Iterator[GgufFile]:
    real = os.path.realpath(folder)
    if real in above or len(above) > MAX_DEPTH:  # a link to a folder above, or that goes on for ever
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _walk(Path(entry.path), below / entry.name, above | {real})
                elif entry.name.lower().endswith(".gguf") and entry.is_file():
                    its = entry.stat()
                    changed = max(its.st_mtime, its.st_ctime)
                    yield GgufFile(Path(os.path.abspath(entry.path)), below / entry.name, its.st_size, changed)  # noqa: PTH100
            except OSError:  # it was deleted just now, or hotseat may not read it
                continue


def settled(files: Sequence[GgufFile], now: float) -> list[GgufFile]:
    """Return the files that do not change any longer. `now` is Unix time. A time in the future counts as settled."""
    return [file for file in files if file.size and not 0 <= now - file.changed < SETTLED]


def find(files: Sequence[GgufFile]) -> tuple[list[FoundModel], list[str]]:
    """Return the Models of files, and notes on files that are none."""
    names = {file.below for file in files}
    models, projectors, notes = list[GgufFile](), list[GgufFile](), list[str]()
    for file in files:
        split, name = _SPLIT.search(file.below.stem), file.below.name
        if _PROJECTOR in name.lower():
            projectors.append(file)
        elif name.startswith(_DRAFTS) or (split and int(split["number"]) != 1):
            continue
        elif split and (missing := _missing(file, split, names)):
            notes.append(f"{file.below}: not a Model yet, {missing} is missing")
        else:
            models.append(file)
    shown = _shown_names(models)
    stems = Counter([file.stem for file in models] + list(shown.values()))
    found = []
    for file in models:
        name, stem = shown[file.below], file.stem
        more = () if stem == name or stems[stem] > 1 else (stem,)
        found.append(FoundModel(file, (name, *more), _projector(file, models, projectors)))
    return found, notes


def _missing(first: GgufFile, split: re.Match[str], names: set[Path]) -> str:
    """Return the first part of a split model that is not there. Empty: all are."""
    count = int(split["count"])
    start, end = first.below.stem[: split.start()], first.below.suffix
    parts = (first.below.with_name(f"{start}-{n:05}-of-{count:05}{end}") for n in range(2, count + 1))
    return next((part.name for part in parts if part not in names), "")


def _shown_names(models: Sequence[GgufFile]) -> dict[Path, str]:
    """Return the shown name of each model: its folder's, if it is the only one there; else its file's. The path, if that is taken."""
    in_folder = Counter(file.below.parent for file in models)
    found: dict[Path, str] = {}
    for file in models:
        folder = file.below.parent
        path = str(folder / file.stem)
        name = folder.as_posix() if folder.parts and in_folder[folder] == 1 else path
        taken = found.values()
        found[file.below] = next(each for each in (name, path, str(file.below)) if each not in taken)
    return found


def _projector(model: GgufFile, models: Sequence[GgufFile], projectors: Sequence[GgufFile]) -> GgufFile | None:
    """Return the projector of a model: beside it, with the beginning of its name, or with none in a folder of one model."""
    folder = model.below.parent
    alone = bool(folder.parts) or sum(each.below.parent == folder for each in models) == 1
    fitting = []
    for each in projectors:
        if each.below.parent == folder:
            plain = _PRECISION.sub("", each.stem.lower().replace(_PROJECTOR, "").strip("-_."))
            plain = "" if _PRECISION.fullmatch(f"-{plain}") else plain
            if (plain and model.stem.lower().startswith(plain)) or (not plain and alone):
                fitting.append((-len(plain), "-f16" not in f"-{each.stem.lower()}".replace("_", "-"), each.below, each))
    return min(fitting)[3] if fitting else None


# Documents ------------------------------------------------------------------------------------------------------------


def read(folders: Sequence[Path], now: float) -> tuple[list[Text | Problem], list[str]]:
    """Return a text of documents for each folder, and notes on files that are no Models yet. `now` is Unix time."""
    texts, notes, taken = list[Text | Problem](), list[str](), set[str]()
    for folder in dict.fromkeys(folders):
        try:
            found, more = find(settled(gguf_files(folder), now))
        except OSError as error:
            why = f"cannot be read: {error.strerror or error}"
            texts.append(Problem(name_of(folder), why, allowed="a folder of GGUF files"))
            continue
        notes += [f"{name_of(folder)}: {note}" for note in more]
        called = labels([each.names[0] for each in found], taken)
        taken |= {*called.values(), *called}
        documents = [_document(each, called[each.names[0]]) for each in found]
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=1)
        texts.append(Text(name_of(folder), folder, folder, content))
    return texts, notes


def _document(found: FoundModel, label: str) -> Json:
    spec: Json = {"engine": "llamacpp", "source": str(found.file.path)}
    if found.names != (label,):
        spec["names"] = list(found.names)
    if found.projector is not None:
        spec["args"] = ["--mmproj", str(found.projector.path)]
    return {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": label}, "spec": spec}


def snapshot(folders: Sequence[Path], now: float) -> Hashable:
    """Return a value that changes whenever the Models of these folders may have. A file that is written does so once it has settled."""
    return tuple(_state(folder, now) for folder in folders)


def _state(folder: Path, now: float) -> Hashable:
    try:
        return tuple(settled(gguf_files(folder), now))
    except OSError as error:
        return str(error)


def are_written(folders: Sequence[Path], now: float) -> list[Path]:
    """Return the files that have not settled."""
    found: list[Path] = []
    for folder in folders:
        try:
            files = gguf_files(folder)
        except OSError:
            continue
        done = set(settled(files, now))
        found += [file.path for file in files if file not in done]
    return found
