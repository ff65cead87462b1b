"""What tests of the Knative runtime share."""

from collections.abc import Callable

from hotseat.api.model import Model
from hotseat.core.messages import CacheObserved, CacheState


class NoFetcher:
    """Fetcher of models whose weights need no fetching, unless a test names some in `absent`."""

    def __init__(self) -> None:
        self.absent: set[str] = set()
        self.fetched: list[str] = []
        self.closed = False

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        self._observe = observe

    def needs_fetch(self, model: Model) -> bool:
        return model.name in self.absent

    def tell(self, model: Model) -> None:
        self._observe(CacheObserved(0.0, model.name, CacheState.ABSENT))

    def fetch(self, model: Model) -> None:
        self.fetched.append(model.name)
        self._observe(CacheObserved(0.0, model.name, CacheState.FETCHING))

    def close(self) -> None:
        self.closed = True
