"""The soak's own parts: documents by chance are valid, and a seed gives the same again."""

from pathlib import Path
from random import Random

import yaml

from hotseat.manifests.loading import load
from tests.soak.clients import draw
from tests.soak.documents import Cast, edit, impatient_cast, random_cast


def casts(seed: int) -> list[Cast]:
    rng = Random(seed)
    found = [impatient_cast(rng), random_cast(rng, faulty=True)]
    for _ in range(6):
        found.append(edit(rng, found[-1], faulty=True)[1])
    return found


def test_random_documents_and_edits_are_valid(tmp_path: Path) -> None:
    for seed in range(6):
        for cast in casts(seed):
            (tmp_path / "models.yaml").write_text(yaml.safe_dump_all(cast.documents()))
            found = load([tmp_path / "models.yaml"])  # raises where something is wrong
            assert {model.name for model in found.models} == cast.models.keys()


def test_a_seed_gives_the_same_documents_and_requests_again() -> None:
    assert [each.documents() for each in casts(7)] == [each.documents() for each in casts(7)]
    requests = [[draw(rng, "x", impatient=0.5, faulty=True) for _ in range(50)] for rng in (Random(7), Random(7))]
    assert requests[0] == requests[1]
    assert random_cast(Random(7), faulty=False).documents() != random_cast(Random(8), faulty=False).documents()


def test_an_edit_leaves_the_documents_before_it_as_they_were() -> None:
    rng = Random(1)
    cast = random_cast(rng, faulty=True)
    before = cast.documents()
    for _ in range(50):
        edit(rng, cast, faulty=True)
    assert cast.documents() == before
