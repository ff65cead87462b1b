"""Engine external: a server that runs already. hotseat sends requests to it, but does not start or stop it."""

import re

from hotseat.api.model import Model
from hotseat.engines.base import EngineError, Launch, Placement


class External:
    """Engine that hotseat does not run."""

    name = "external"
    cannot_sleep = "hotseat does not stop it either"

    def check(self, model: Model) -> list[str]:
        """Return a missing url, and fields that only a process of hotseat could use."""
        problems = [] if model.spec.url else ["engine external needs url"]
        if model.spec.url and not re.fullmatch(r"http://[^/]+/?", model.spec.url):
            problems.append(
                f"url is {model.spec.url}; allowed is http://HOST:PORT (requests go to the same path there)"
            )
        problems += [
            f"failoverUrls has {url}; allowed is http://HOST:PORT (requests go to the same path there)"
            for url in model.spec.failover_urls
            if not re.fullmatch(r"http://[^/]+/?", url)
        ]
        unused = {
            "command": model.spec.command,
            "args": model.spec.args,
            "env": model.spec.env,
            "port": model.spec.port,
            "source": model.spec.source,
        }
        problems += [
            f"engine external starts nothing, so {field} has no meaning" for field, value in unused.items() if value
        ]
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:  # noqa: ARG002
        """Raise EngineError: the server is not started by hotseat."""
        raise EngineError(f"{model.name} is external ({model.spec.url}); hotseat does not start it")

    def health_path(self, model: Model) -> str:
        """Return the path of the health check."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:  # noqa: ARG002
        """Return False: hotseat does not fetch its weights."""
        return False
