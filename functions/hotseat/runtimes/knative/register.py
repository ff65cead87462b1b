"""Who holds what: the holders that are not released, and whose each pod is."""

import threading

from hotseat.kube.client import Json
from hotseat.kube.pods import uid
from hotseat.runtimes.knative.holding import Holding

NOBODYS = ""  # owner of pods that were over before anybody asked


class Register:
    """Holders by id, thread-safe; pods by uid, for the worker's thread alone.

    A pod belongs to whoever had its Revision when it was first seen, until its object is gone: a later holder of the same
    Revision has nothing to do with what an earlier one left behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holdings: dict[str, Holding] = {}
        self._owner: dict[str, str] = {}

    def add(self, holding: Holding) -> None:
        """Take in a holder. ValueError: one of that name is there."""
        with self._lock:
            if holding.id in self._holdings:
                raise ValueError(f"the holder {holding.id} exists")
            self._holdings[holding.id] = holding
        for pod in holding.pods:
            self._owner[pod] = holding.id

    def remove(self, holding: Holding) -> None:
        """Forget a holder, and those of its pods that nothing more will be heard of."""
        with self._lock:
            del self._holdings[holding.id]
        for pod in holding.pods.values():
            if pod.present:
                self._owner[pod.uid] = holding.id
            else:
                self._owner.pop(pod.uid, None)

    def __contains__(self, holder: str) -> bool:
        return holder in self._holdings

    def get(self, holder: str) -> Holding | None:
        """Give a holder by its id."""
        return self._holdings.get(holder)

    def all(self) -> list[Holding]:
        """Give all, oldest first."""
        return list(self._holdings.values())

    def of_revision(self, revision: str) -> Holding | None:
        """Give the holder that a Revision is scaled up for, or was."""
        return next((each for each in self.all() if each.revision == revision), None)

    def knows(self, pod: Json) -> bool:
        """Whether it is settled whose a pod is."""
        return uid(pod) in self._owner

    def owner(self, pod: Json) -> Holding | None:
        """Give the holder of a pod, if it is not released yet."""
        return self._holdings.get(self._owner.get(uid(pod), NOBODYS))

    def assign(self, pod: Json, holder: str) -> None:
        """Settle whose a pod is."""
        self._owner[uid(pod)] = holder

    def forget(self, pod: Json) -> None:
        """Nothing more will be heard of a pod."""
        self._owner.pop(uid(pod), None)
