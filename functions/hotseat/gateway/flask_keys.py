"""What the API key of a request may do on the routes in Flask."""

from flask import request

from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Forbidden, shortened
from hotseat.gateway.accepted_head import check_named_model
from hotseat.gateway.auth import ANYBODY, OPERATE, ApiKey
from hotseat.gateway.openapi import Description
from hotseat.gateway.wsgi_threads import KEY

_MODEL = "<model:name>"  # in a rule: the name of a Model


def key_of_request() -> ApiKey:
    """Return the key of the request that is served."""
    key = request.environ.get(KEY)
    return key if isinstance(key, ApiKey) else ANYBODY


def check_key(described: Description | None, registry: ModelRegistry) -> None:
    """Raise Forbidden if the key of the request may not use its route. `described` is that of the view.

    A route that says nothing needs the operation `operate`. With a key for some Models, commands for all of them are refused.
    """
    key, rule = key_of_request(), request.url_rule
    if rule is None or (described is not None and described.keyless):
        return
    operations = (described.operations if described is not None else ()) or (OPERATE,)
    key.check(operations, request.path)
    if key.has_all_models or (described is not None and described.checks_models):
        return
    if _MODEL in rule.rule:
        check_named_model(key, (request.view_args or {})["name"], registry)
    elif described is not None and "model" in (described.query or ()) and (name := request.args.get("model")):
        check_named_model(key, name, registry)
    elif operations == (OPERATE,):
        raise Forbidden(
            f"The API key {key.name} may not use {shortened(request.path)}, which is for all Models: the key is for some of them.",
            code="model_not_allowed",
        )
