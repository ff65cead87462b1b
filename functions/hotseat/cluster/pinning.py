"""Where a pin is kept on a cluster: an annotation on its Model, or on the ksvc that is one. So it outlives every switcher."""

from collections.abc import Callable

from hotseat.cluster.documents import Documents
from hotseat.core.documents import PINNED
from hotseat.core.errors import Unavailable
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.names import MODELS, SERVICES


class Pinning:
    """Writes pins down. `documents` gives those that were read last."""

    def __init__(self, kube: Kube, namespace: str, documents: Callable[[], Documents]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._documents = documents

    def keep(self, model: str, *, pinned: bool) -> None:
        """Annotate a Model. Unavailable: it could not be written.

        On a ksvc the annotation stands over one of its template's, and says that it is off.
        """
        read = self._documents().models.get(model)
        adopted = read is not None and read.uid is None
        value = "true" if pinned else "false" if adopted else None
        path = (SERVICES if adopted else MODELS).path(self._namespace, model)
        try:
            self._kube.merge(path, {"metadata": {"annotations": {PINNED: value}}})
        except KubeError as error:
            message = f"cannot write the annotation {PINNED} of {model}: {error}"
            raise Unavailable(message, code="pin_not_kept", retry_after=5.0) from error
