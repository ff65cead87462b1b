"""Objects of Kubernetes in a file, for the importers of operators' documents."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hotseat.api.types import OBJECT_PATTERN, VARIABLE_PATTERN, Json
from hotseat.api.units import Unreadable, parse_bytes, parse_quantity
from hotseat.importing.reader import Reader
from hotseat.importing.writer import Note, compact
from hotseat.manifests.nodes import parse
from hotseat.manifests.problems import ManifestErrors, Path, Problem

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe")


@dataclass(frozen=True, slots=True)
class KubeObject:
    """One object, at `base` of a YAML document."""

    reader: Reader
    base: Path

    def at(self, *path: str | int) -> Path:
        """Return the path of a field."""
        return (*self.base, *path)

    def get(self, *path: str | int) -> Any:
        """Return a field of any type, None if it is not set."""
        return self.reader.get(self.at(*path))

    def text(self, *path: str | int) -> str:
        """Return a text, empty if it is not set."""
        return self.reader.text(self.at(*path))

    @property
    def kind(self) -> str:
        """Return the kind of the object."""
        return str(self.get("kind") or "")

    @property
    def group(self) -> str:
        """Return its API group, without the version."""
        return str(self.get("apiVersion") or "").rpartition("/")[0]

    @property
    def name(self) -> str:
        """Return metadata.name."""
        return self.text("metadata", "name")

    @property
    def origin(self) -> str:
        """Return the comment above the document that is made from it."""
        return f"{self.kind} {self.name} ({self.reader.file}, line {self.reader.line(self.at('kind'))})"

    def unknown(self, path: Path, known: Iterable[str]) -> Iterator[Note]:
        """Yield a note for each field below a path that is not known."""
        known = tuple(known)
        for key in self.reader.mapping(self.at(*path)):
            if key not in known:
                yield Note(
                    "no equivalent", ".".join(map(str, (*path, key))), self.reader.unknown(self.at(*path, key), known)
                )


def read_objects(content: str, file: str) -> list[KubeObject]:
    """Return the objects of a file, also those of a List. Raise ManifestErrors if it is not YAML."""
    found: list[KubeObject] = []
    for tree in parse(content, file):
        if isinstance(tree, Problem):
            raise ManifestErrors([tree])
        reader = Reader(tree, file)
        if isinstance(tree.data, dict) and isinstance(tree.data.get("items"), list):
            found += [KubeObject(reader, ("items", index)) for index, _ in enumerate(tree.data["items"])]
        else:
            found.append(KubeObject(reader, ()))
    return found


def raise_problems(objects: Iterable[KubeObject]) -> None:
    """Raise ManifestErrors if a field of an object could not be read."""
    problems = dict.fromkeys(problem for each in objects for problem in each.reader.problems)
    if problems:
        raise ManifestErrors(sorted(problems, key=lambda it: (it.line or 0, it.column or 0)))


def others(objects: Iterable[KubeObject], used: Iterable[KubeObject]) -> list[Note]:
    """Return a note on the objects that are no models."""
    taken = {id(each) for each in used}
    left = [f"{each.kind} {each.name}" for each in objects if id(each) not in taken and each.kind]
    return [Note("changed", "objects", f"left out, as they are no models: {', '.join(left)}")] if left else []


def environment(obj: KubeObject, path: Path) -> tuple[Json, list[Note]]:
    """Return the fields `env` and `credentials` of a Model for a container's variables, and notes."""
    env: list[Json] = []
    secrets: dict[str, None] = {}
    notes: list[Note] = []
    for index, _ in enumerate(obj.reader.items(obj.at(*path))):
        name = obj.text(*path, index, "name")
        reference = obj.reader.mapping(obj.at(*path, index, "valueFrom", "secretKeyRef"))
        if reference and reference.get("key") == name:
            secrets[str(reference.get("name"))] = None
        elif obj.get(*path, index, "valueFrom") is not None:
            text = f"{name}: a value from elsewhere; put it under this name into a Secret, and name that in credentials"
            notes.append(Note("no equivalent", ".".join(map(str, (*path, index))), text))
        elif not name or not _matches(VARIABLE_PATTERN, name):
            obj.reader.problem("is not the name of a variable", obj.at(*path, index), found=name)
        else:
            env.append({"name": name, "value": obj.text(*path, index, "value")})
    first, *more = secrets or [""]
    if more:
        notes.append(
            Note(
                "no equivalent",
                ".".join(map(str, path)),
                f"a Model has one Secret in credentials, and {', '.join(more)} is left out",
            )
        )
    if first and not _matches(OBJECT_PATTERN, first):
        first = ""
    return {"env": env, "credentials": first}, notes


def resources(obj: KubeObject, path: Path) -> tuple[Json, list[Note]]:
    """Return the field `resources` of a Model for a container's requests and limits, and notes."""
    if obj.get(*path) is None:
        return {}, [
            Note(
                "assumed", "resources", "none are stated: the Model takes one GPU; with resources.gpus: 0 it takes none"
            )
        ]
    found: Json = {}
    notes = list(obj.unknown(path, ("limits", "requests", "claims")))
    stated = {**obj.reader.mapping(obj.at(*path, "limits")), **obj.reader.mapping(obj.at(*path, "requests"))}
    gpus = [value for key, value in stated.items() if key in GPU_RESOURCES]
    found["gpus"] = 0
    for value in gpus[:1]:
        try:
            found["gpus"] = int(parse_quantity(value))
        except Unreadable as error:
            obj.reader.problem(f"is not {error}", obj.at(*path), found=value)
    for key, parser in (("cpu", parse_quantity), ("memory", parse_bytes)):
        try:
            if key in stated and parser(stated[key]) is not None:
                found[key] = str(stated[key])
        except Unreadable as error:
            obj.reader.problem(f"is not {error}", obj.at(*path), found=stated[key])
    lost = {key: value for key, value in stated.items() if key not in (*GPU_RESOURCES, "cpu", "memory")}
    if lost:
        notes.append(Note("no equivalent", "resources", f"{compact(lost)}: use podTemplate"))
    if not gpus:
        notes.append(Note("assumed", "resources", "no GPU is stated: the Model runs without one, beside any other"))
    return {"resources": found}, notes


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern.strip("^$"), text) is not None
