"""Whatever stands in a configuration of another program: it is imported, or refused by its line. It raises nothing else."""

import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.importing import convert
from hotseat.manifests import ManifestErrors

LOADER, DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
CASES = Path(__file__).parent / "cases"
ODD: tuple[Any, ...] = (
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    "a: b",
    [],
    [None],
    [1],
    ["x", {}],
    {},
    {"a": 1},
    {"a": {"b": []}},
    [[]],
)
FILES = [*sorted(path for path in CASES.rglob("*.*ml") if path.is_file()), CASES / "ollama/tags.json"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def with_value(documents: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = deepcopy(documents)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_field_of_another_type(path: Path) -> None:
    documents = [each for each in yaml.load_all(path.read_text(), Loader=LOADER) if each]
    source = path.parent.name
    found = random.Random(str(path))
    every = [(place, value) for place in places(documents) if place for value in ODD]
    for place, value in found.sample(every, min(40, len(every))):
        text = yaml.dump_all(with_value(documents, place, value), Dumper=DUMPER)
        try:
            convert(text, "f", {}, source=source)
        except ManifestErrors:
            pass
        except Exception as error:
            pytest.fail(f"{place} = {value!r}: {error!r}")
