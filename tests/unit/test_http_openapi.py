"""The description of the interface: a validator's word on it, and real answers against it."""

import json
from typing import Any

import pytest
from aiohttp import web
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from bootd.cli.main import main
from bootd.drivers.http.operator import ROUTES, describe
from bootd.session.view import view
from tests.unit.session_room import SIZE, Room


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


def undescribed(value: Any, schema: dict[str, Any], components: dict[str, Any], where: str) -> list[str]:
    """Keys of ``value`` that ``schema`` does not have, at any depth."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return undescribed(value, components[name], components, name)
    if value is not None and "anyOf" in schema:
        whole = {"components": {"schemas": components}}
        branches = [one for one in schema["anyOf"] if OAS31Validator({**one, **whole}).is_valid(value)]
        return min((undescribed(value, one, components, where) for one in branches), key=len, default=[])
    if isinstance(value, list):
        return [line for item in value for line in undescribed(item, schema.get("items", {}), components, where)]
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        lines = [f"bootd/drivers/http/answers.py: {where} lacks {key}" for key in value if key not in known]
        return lines + [
            line for key in value if key in known for line in undescribed(value[key], known[key], components, where)
        ]
    return []


def test_no_key_of_the_state_is_undescribed() -> None:
    """What operators see may grow; its description grows with it."""
    room = Room(3)
    room.create("lab[1-3]", name="demo")
    room.head_ready()
    room.ready(1, 2, 3)
    room.receiving(1, SIZE // 2)
    room.now += 4
    value = json.loads(json.dumps({**view(room.coordinator, room.now), "journal": "ok"}))
    assert value["sessions"][0]["members"]
    assert value["sessions"][0]["slowest_hop"]
    assert value["nodes"][0]["disks"]
    document = describe()
    components = document["components"]["schemas"]
    schema = {"$ref": "#/components/schemas/State"}
    assert undescribed(value, schema, components, "State") == []
    assert list(OAS31Validator({**schema, "components": document["components"]}).iter_errors(value)) == []
    value["sessions"][0]["members"][0]["surprise"] = value["sessions"][0]["slowest_hop"]["other"] = 1
    found = undescribed(value, schema, components, "State")
    assert sorted(line.partition(": ")[2] for line in found) == ["Hop lacks other", "Member lacks surprise"]
