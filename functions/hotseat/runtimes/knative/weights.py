"""The interface of what fetches weights into the volumes of models."""

from collections.abc import Callable
from typing import Protocol

from hotseat.api.model import Model
from hotseat.core.messages import CacheObserved


class WeightsFetcher(Protocol):
    """Fetches weights. `observe` is called from any thread."""

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        """Report to `observe` from now on."""

    def needs_fetch(self, model: Model) -> bool:
        """Whether hotseat fetches a model's weights; if not, they count as cached. No I/O."""

    def tell(self, model: Model) -> None:
        """Report the cache state of a model soon, and every change from then on."""

    def fetch(self, model: Model) -> None:
        """Fetch the weights of a model. A repetition while it runs does nothing."""

    def close(self) -> None:
        """Report no more; fetches that run continue."""
