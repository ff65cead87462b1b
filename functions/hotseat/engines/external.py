"""A server that is running already: requests go there, but nobody loads or unloads it."""

import re

from hotseat.api.model import Model
from hotseat.engines.base import EngineError, Launch, Placement


class External:
    """Engine that is somebody else's business."""

    name = "external"
    cannot_sleep = "hotseat does not stop it either"

    def check(self, model: Model) -> list[str]:
        """Want a url, and no fields that only a process of ours could follow."""
        problems = [] if model.spec.url else ["engine external needs url"]
        if model.spec.url and not re.fullmatch(r"http://[^/]+/?", model.spec.url):
            problems.append(
                f"url is {model.spec.url}; allowed is http://HOST:PORT (requests go to the same path there)"
            )
        ours = {
            "command": model.spec.command,
            "args": model.spec.args,
            "env": model.spec.env,
            "port": model.spec.port,
            "source": model.spec.source,
        }
        problems += [
            f"engine external starts nothing, so {field} has no meaning" for field, value in ours.items() if value
        ]
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:  # noqa: ARG002
        """Refuse: there is nothing to start."""
        raise EngineError(f"{model.name} is external ({model.spec.url}); hotseat does not start it")

    def health_path(self, model: Model) -> str:
        """Path of its health check."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:  # noqa: ARG002
        """Tell that its weights are not ours to bring."""
        return False
