"""The OpenAPI description of the gateway, made from its routes: `GET /openapi.json`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask
from werkzeug.routing import Rule

from hotseat.gateway.accepted_head import Route
from hotseat.gateway.auth import Operation
from hotseat.gateway.errors import ANTHROPIC, OLLAMA, OPENAI, ErrorShape, shape_of

FindRoute = Callable[[str, str], Route | None]  # by method and path
View = TypeVar("View", bound=Callable[..., Any])
JSON = "application/json"
# What any request can be answered with: by the rules of HTTP, for its key or its origin, and for the state of the server. There is no
# 500: that is a bug.
COMMON_ERRORS = (400, 401, 403, 408, 413, 429, 431, 501, 503)
INFERENCE_ERRORS = (404, 409, 415, 502, 504)
_ATTRIBUTE = "description"
_SHAPES: Mapping[str, ErrorShape] = {"OpenAIError": OPENAI, "AnthropicError": ANTHROPIC, "OllamaError": OLLAMA}
_TEXT: Mapping[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
NAMED: Mapping[str, Any] = {
    "type": "object",
    "required": ["model"],
    "properties": {"model": {**_TEXT, "minLength": 1}, "stream": {"type": "boolean"}},
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a route does, and how it can answer. `query` has the JSON Schema of each parameter.

    `operations`: a key needs one of these. Empty: nobody has said which. `checks_models`: the view shows only Models that the key may use,
    or checks the one that the body names.
    """

    summary: str
    ok: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    content: tuple[str, ...] = (JSON,)
    query: Mapping[str, Mapping[str, Any]] | None = None
    body: Mapping[str, Any] | None = None  # JSON Schema
    open_errors: bool = False  # the engine answers, with any status
    operations: tuple[Operation, ...] = ()
    checks_models: bool = False
    keyless: bool = False


def documented(
    summary: str,
    *errors: int,
    ok: Iterable[int] = (200,),
    content: Iterable[str] = (JSON,),
    query: Mapping[str, Mapping[str, Any]] | None = None,
    body: Mapping[str, Any] | None = None,
    operation: Operation | tuple[Operation, ...] = (),
    checks_models: bool = False,
    keyless: bool = False,
) -> Callable[[View], View]:
    """Describe a view of Flask. `errors` are statuses beside those that any request can be answered with.

    `operation`: a key needs it, or one of several.
    """
    operations = (operation,) if isinstance(operation, Operation) else operation

    def describe(view: View) -> View:
        described = Description(
            summary,
            tuple(ok),
            errors,
            tuple(content),
            query,
            body,
            operations=operations,
            checks_models=checks_models,
            keyless=keyless,
        )
        setattr(view, _ATTRIBUTE, described)
        return view

    return describe


def description_of(view: Callable[..., Any]) -> Description | None:
    """Return the description of a view. None: it has none."""
    found: Description | None = getattr(view, _ATTRIBUTE, None)
    return found


def operations_of(app: Flask, find_route: FindRoute) -> Mapping[str, tuple[Operation, ...] | None]:
    """Return the operations of which a key needs one, by method and rule. None: no key is needed."""
    found: dict[str, tuple[Operation, ...] | None] = {}
    for rule in app.url_map.iter_rules():
        for method in _methods(rule):
            described = _find(app, rule, method, find_route)
            keyless = described is not None and described.keyless
            found[f"{method} {rule.rule}"] = None if keyless else described.operations if described else ()
    return found


def describe_gateway(app: Flask, find_route: FindRoute, version: str, *, keys: bool) -> dict[str, Any]:
    """Return the description of all routes. `find_route` finds those for inference. `keys`: most routes require a key."""
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        for path, names in _paths(rule):
            for method in _methods(rule):
                operation = _find(app, rule, method, find_route)
                if operation is not None:
                    paths.setdefault(path, {})[method.lower()] = _operation(operation, path, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hotseat", "version": version, "license": {"name": "Apache-2.0"}},
        "security": [{"bearer": []}, {"header": []}] if keys else [],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {
                "OpenAIError": _object(error=_object(message=_TEXT, type=_TEXT, code=_TEXT)),
                "AnthropicError": _object(type=_TEXT, error=_object(type=_TEXT, message=_TEXT)),
                "OllamaError": _object(error=_TEXT),
            },
        },
    }


def undocumented(app: Flask, find_route: FindRoute) -> list[str]:
    """Return the rules of Flask that have no description."""
    return sorted(
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in _methods(rule)
        if _find(app, rule, method, find_route) is None
    )


def _methods(rule: Rule) -> list[str]:
    return sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})


def _find(app: Flask, rule: Rule, method: str, find_route: FindRoute) -> Description | None:
    route = find_route(method, rule.rule)
    if route is None:
        return description_of(app.view_functions[rule.endpoint])
    summary = f"Send a request of the kind `{route.label}` to a model"
    if method == "GET":
        return Description(
            summary, errors=INFERENCE_ERRORS, query={"model": _TEXT}, open_errors=True, operations=(route.operation,)
        )
    return Description(summary, errors=INFERENCE_ERRORS, body=NAMED, open_errors=True, operations=(route.operation,))


def _paths(rule: Rule) -> Iterator[tuple[str, list[str]]]:
    """Yield the paths of a rule in OpenAPI's notation, with the names of their parameters."""
    choice = re.search(r"<any\(([^)]*)\):\w+>", rule.rule)
    texts = [rule.rule]
    if choice is not None:
        texts = [rule.rule.replace(choice[0], each.strip()) for each in choice[1].split(",")]
    for text in texts:
        path = re.sub(r"<(?:[^:<>]*:)?(\w+)>", r"{\1}", text)
        yield path, re.findall(r"\{(\w+)\}", path)


def _operation(operation: Description, path: str, names: list[str]) -> dict[str, Any]:
    shape = next(name for name, shape in _SHAPES.items() if shape is shape_of(path))
    error = {"content": {JSON: {"schema": {"$ref": f"#/components/schemas/{shape}"}}}}
    responses: dict[str, Any] = {}
    for status in operation.ok:
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        if status != HTTPStatus.NO_CONTENT and not operation.open_errors:
            responses[str(status)]["content"] = {content: {} for content in operation.content}
    for status in sorted({*COMMON_ERRORS, *operation.errors, *([404] if names else [])}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **error}
    if operation.open_errors:
        responses["default"] = {"description": "The engine's own answer"}
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if operation.keyless:
        described["security"] = []
    else:
        described["x-hotseat-operations"] = list(operation.operations)
    query = (operation.query or {}).items()
    parameters = [{"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}} for name in names]
    parameters += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in query]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": operation.body}}}
    return described


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
