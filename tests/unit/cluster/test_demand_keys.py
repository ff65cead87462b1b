"""The demand key, while it is replaced."""

from pathlib import Path

import pytest

from hotseat.cluster.demand_keys import KEPT, USED_AFTER, DemandKeys, read_key

OLD, NEW, NEWEST = b"the old key, long enough", b"the new key, long enough", b"the newest key, long enough"


class Pod:
    """One process with its copy of the Secret, which the kubelet brings it whenever it likes."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, 0.0
        self.brings(OLD)
        self.keys = DemandKeys(read_key(path), path, lambda: self.now)

    def brings(self, key: bytes) -> None:
        self.path.write_bytes(key + b"\n")


@pytest.fixture
def pods(tmp_path: Path) -> tuple[Pod, Pod]:
    return Pod(tmp_path / "router"), Pod(tmp_path / "switcher")


def accepts(switcher: Pod, router: Pod) -> bool:
    data = {"workspace": "w", "seq": 1}
    return switcher.keys.signed(data, router.keys.sign(data))


@pytest.mark.parametrize("first", ["router", "switcher"])
def test_no_demand_is_refused_whichever_pod_gets_the_new_key_first(pods: tuple[Pod, Pod], first: str) -> None:
    router, switcher = pods
    one, other = (router, switcher) if first == "router" else (switcher, router)
    one.brings(NEW)
    one.keys.read()
    for seconds in range(0, 121, 10):
        router.now = switcher.now = seconds
        assert accepts(switcher, router)
    other.brings(NEW)
    other.keys.read()
    for seconds in range(120, 2000, 10):
        router.now = switcher.now = seconds
        assert accepts(switcher, router)
    assert router.keys.sign({}) == DemandKeys(NEW).sign({})


def test_the_replaced_key_is_refused_in_the_end(pods: tuple[Pod, Pod]) -> None:
    router, switcher = pods
    switcher.brings(NEW)
    switcher.keys.read()
    switcher.now = USED_AFTER + KEPT - 1
    assert accepts(switcher, router)
    switcher.now += 1
    assert not accepts(switcher, router)


def test_a_pod_that_begins_with_the_new_key_is_understood_once_the_secret_is_there(pods: tuple[Pod, Pod]) -> None:
    router, switcher = pods
    router.brings(NEW)
    new = DemandKeys(read_key(router.path))
    assert not switcher.keys.signed({}, new.sign({}))
    switcher.brings(NEW)
    assert switcher.keys.signed({}, new.sign({})), "it reads its file before it refuses"


def test_a_switcher_that_begins_with_the_new_key_is_understood_after_one_refusal(pods: tuple[Pod, Pod]) -> None:
    router, switcher = pods
    for pod in pods:
        pod.brings(NEW)
    router.keys.read()
    switcher.keys = DemandKeys(read_key(switcher.path), switcher.path, lambda: switcher.now)
    assert not accepts(switcher, router), "it has never seen the old key"
    router.keys.refused()
    assert accepts(switcher, router)
    router.keys.refused()
    assert accepts(switcher, router)


def test_two_changes_in_a_row(pods: tuple[Pod, Pod]) -> None:
    router, switcher = pods
    for now, key in ((0.0, NEW), (60.0, NEWEST)):
        for pod in pods:
            pod.now = now
            pod.brings(key)
            pod.keys.read()
    for now, signs in ((61.0, OLD), (USED_AFTER, NEW), (USED_AFTER + 60, NEWEST)):
        router.now = switcher.now = now
        assert router.keys.sign({}) == DemandKeys(signs).sign({})
        assert accepts(switcher, router)


@pytest.mark.parametrize("content", [b"short", b"", None])
def test_a_file_without_a_key_changes_nothing(
    pods: tuple[Pod, Pod], content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    router, switcher = pods
    router.path.unlink() if content is None else router.path.write_bytes(content)
    router.keys.read()
    router.now = 10_000.0
    assert accepts(switcher, router)
    assert "the demand key stays as it is" in caplog.text


def test_a_forged_signature_is_refused(pods: tuple[Pod, Pod]) -> None:
    assert not pods[0].keys.signed({}, "")
    assert not pods[0].keys.signed({}, DemandKeys(b"somebody else has it").sign({}))
