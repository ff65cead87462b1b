"""Three hundred clients at once, some of whom leave: every request ends exactly once, and nothing is left over."""

import random
import time
from collections import Counter

from .conftest import Up
from .harness import eventually, model

MODELS = ("a", "b", "c")


def test_300_clients_over_three_models_with_departures(up: Up) -> None:
    chance = random.Random(300)
    hotseat = up(*(model(name) for name in MODELS))
    calls = []
    for number in range(300):
        mock = {"tokens": 5, "tokens_per_second": chance.choice((0, 50, 200))}
        name = chance.choice(MODELS)
        calls.append((name, hotseat.send(name, f"number {number}", stream=chance.random() < 0.5, mock=mock)))
    leaving = set(chance.sample(range(300), 100))
    for number in leaving:
        time.sleep(chance.random() * 0.004)
        calls[number][1].leave()
    staying = [(name, call.answer()) for number, (name, call) in enumerate(calls) if number not in leaving]
    assert [answer.by for _, answer in staying] == [name for name, _ in staying]

    def ended() -> Counter[str]:
        counted = Counter()
        for key, count in hotseat.metrics().items():
            if key[0] == "hotseat_requests_total":
                counted[key[3]] += int(count)
        return counted

    eventually(lambda: ended().total() == 300)
    assert set(ended()) == {"200", "499"}
    assert ended()["200"] >= 200
    metrics = hotseat.metrics()
    assert all(
        metrics["hotseat_queued_requests", name] == metrics["hotseat_requests_in_flight", name] == 0 for name in MODELS
    )
    assert hotseat.get("/running").json()["waiting"] == []
    assert hotseat.loads().total() <= 6, "they took turns, and few of them"
    asked = sum(row["event"] == "request" for row in hotseat.mock_lines())
    eventually(lambda: sum(row["event"] == "done" for row in hotseat.mock_lines()) == asked)  # an engine's last lines
    done = [row for row in hotseat.mock_lines() if row["event"] == "done"]
    assert len(done) == sum(row["event"] == "request" for row in hotseat.mock_lines()) <= 300
