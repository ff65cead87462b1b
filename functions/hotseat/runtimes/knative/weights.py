"""What the runtime asks of whoever brings weights into the claims of models."""

from collections.abc import Callable
from typing import Protocol

from hotseat.api.model import Model
from hotseat.core.messages import CacheObserved


class WeightsFetcher(Protocol):
    """Brings weights. Tells `observe` from any thread."""

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        """Tell from now on."""

    def needs_fetch(self, model: Model) -> bool:
        """Whether hotseat brings a model's weights; if not, it counts as cached. No I/O."""

    def tell(self, model: Model) -> None:
        """Tell soon what is known of a model's weights, and every change from then on."""

    def fetch(self, model: Model) -> None:
        """Bring them. Repeating it while it runs does nothing."""

    def close(self) -> None:
        """Tell no more; what runs goes on."""
