"""Engine external: a server that runs already. hotseat sends requests to it, but does not start or stop it."""

import re
from urllib.parse import urlsplit

from hotseat.api.engine_access import UPSTREAM_URL
from hotseat.api.model import Model
from hotseat.engines.base import EngineError, Launch, Placement


def _has_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class External:
    """Engine that hotseat does not run."""

    name = "external"
    cannot_sleep = "hotseat does not stop it either"

    def check(self, model: Model) -> list[str]:
        """Return a missing url, and fields that only a process of hotseat could use."""
        problems = [] if model.spec.url or model.spec.mock_response is not None else ["engine external needs url"]
        if model.spec.url and not re.fullmatch(UPSTREAM_URL, model.spec.url):
            problems.append(
                "url has a form that is not allowed; allowed: http:// or https://, HOST[:PORT], and maybe a path and a query. A user and "
                "password go into engineKey or headers"
            )
        elif model.spec.url and not _has_port(model.spec.url):
            problems.append("url has a port that is not allowed; allowed: 1 to 65535")
        if not all(re.fullmatch(UPSTREAM_URL, url) and _has_port(url) for url in model.spec.failover_urls):
            problems.append("failoverUrls has a URL of a form that is not allowed; allowed are the forms of url")
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
