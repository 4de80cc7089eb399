"""OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), from the route table and the types of bodies and answers."""

import re
from importlib.metadata import version
from typing import Any

import msgspec

from bootd.drivers.http.answers import Failure, Line, State
from bootd.drivers.http.routes import PREFIX, Route

_REFERENCE = "#/components/schemas/{name}"
_FAILURES = {
    "400": "The request is wrong, or names what is not there",
    "401": "No token, or one that is unknown, revoked or expired (network only)",
    "403": "The token's scope does not allow this",
    "409": "Refused by a safety rule, or in use",
    "413": "The body is too large",
    "422": "The image cannot be read",
    "429": "Too many requests, or too many wrong tokens, from this address (network only)",
    "500": "A defect: see the log of bootd",
}


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The whole description, as JSON values."""
    named = [part for route in routes for part in (route.answer, route.body) if part is not None]
    types = [*dict.fromkeys(named), Failure, Line, State]
    found, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    # Defaults of tuples are lists in JSON.
    found, components = msgspec.json.decode(msgspec.json.encode((found, components)))
    schemas = dict(zip([repr(kind) for kind in types], found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bootd",
            "version": version("bootd"),
            "summary": "Network-boots machines and clones disks onto them, verified",
            "description": "Sizes in bytes, rates in bytes per second, durations in seconds, times of day in"
            " seconds since the epoch. Keys are only ever added.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "where [api] listens, or the unix socket"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                _response_name(status): {
                    "description": text,
                    "content": {"application/json": {"schema": schemas[repr(Failure)]}}
                    if status != "500"
                    else {"text/plain": {"schema": {"type": "string"}}},
                    **({"headers": _RETRY} if status == "429" else {}),
                }
                for status, text in _FAILURES.items()
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "bootd token create NAME --scope SCOPE; on the unix socket none is needed",
                }
            },
        },
    }


_RETRY = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "No content"}
    if route.answer is not None:
        success = {"description": "Done", "content": {route.media: {"schema": schemas[repr(route.answer)]}}}
    status = str(route.status if route.answer is not None else 204)
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__.strip("_"),
        "summary": route.summary,
        "description": f"Scope: {route.scope}.",
        "x-bootd-scope": route.scope.value,
        "responses": {
            status: success,
            **{status: {"$ref": f"#/components/responses/{_response_name(status)}"} for status in _FAILURES},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ] + [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[repr(route.body)]}},
        }
    return operation


def _response_name(status: str) -> str:
    return f"Status{status}"
