"""The description of the interface: a validator's word on it, and real answers against it."""

import json
from typing import Any

import pytest
from aiohttp import web
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from bootd.cli.main import main
from bootd.drivers.http.operator import ROUTES, describe


def test_it_is_openapi_3_1() -> None:
    errors = list(OpenAPIV31SpecValidator(describe()).iter_errors())
    assert errors == []


def test_the_validator_sees_a_mistake() -> None:
    document = json.loads(json.dumps(describe()))
    del document["paths"]["/api/v1/sessions/{id}"]["get"]["parameters"]
    assert list(OpenAPIV31SpecValidator(document).iter_errors())


def test_every_route_is_in_it_once() -> None:
    paths = describe()["paths"]
    found = {(method.upper(), path) for path, item in paths.items() for method in item}
    assert found == {(route.method, f"/api/v1{route.path}") for route in ROUTES}
    assert len(found) == len(ROUTES)
    names = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(set(names)) == len(names)


def test_the_table_makes_an_application() -> None:
    """aiohttp refuses two routes of one method and path, and paths that are none."""
    app = web.Application()
    for route in ROUTES:
        app.router.add_route(route.method, f"/api/v1{route.path}", route.handler)  # type: ignore[arg-type]
    assert len(app.router.routes()) == len(ROUTES)


def body_schema(path: str, method: str) -> OAS31Validator:
    document = describe()
    body = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    return OAS31Validator({**body, "components": document["components"]})


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"source": "/i", "nodes": "any", "disk": "only"}, True),
        ({"source": "/i", "nodes": "any", "disk": "only", "expect": 3, "after": "stay"}, True),
        ({"source": "/i", "nodes": "any"}, False),
        ({"source": "/i", "nodes": "any", "disk": "only", "surprise": 1}, False),
        ({"source": "/i", "nodes": "any", "disk": "only", "after": "explode"}, False),
        ({"source": 5, "nodes": "any", "disk": "only"}, False),
    ],
)
def test_a_deploy_as_the_description_has_it(body: dict[str, Any], good: bool) -> None:
    assert body_schema("/api/v1/sessions", "post").is_valid(body) is good


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["api", "openapi"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == describe()
