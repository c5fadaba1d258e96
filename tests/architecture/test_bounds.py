"""Every text, number and collection of a request has a bound.

What has none costs the service as much as a caller likes, whatever the limit of the body is: a
number is compared and multiplied, a list is searched, a text is copied into errors and logs.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from dti_engine.config import TrainConfig
from dti_engine.images.bundles.schema import BundleDescription
from services.api.app import create_app
from services.contracts.generation import GenerateRequest
from services.contracts.models import MINIATURE
from services.ledger.ledger import Ledger
from services.storage.memory import MemoryStore

Schema = Mapping[str, Any]

BOUNDED_ELSEWHERE = {
    # `TrainConfig` bounds the values, below, and refuses names that it does not know.
    "TrainingJobRequest/overrides/*",
}

_UNBOUNDED_QUANTIFIER = re.compile(r"[*+]|\{\d+,\}")
_CLASS = re.compile(r"\[[^\]]*\]|\\.")


def unbounded(schema: Schema, definitions: Schema, place: str, seen: set[str]) -> Iterator[str]:
    """Yield the place of each value in a JSON schema that has no upper bound."""
    if place in BOUNDED_ELSEWHERE:
        return
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        if not definitions[name]:
            yield f"{place}: any JSON"
        elif name not in seen:
            seen.add(name)
            yield from unbounded(definitions[name], definitions, name, seen)
        return
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for choice in choices:
            yield from unbounded(choice, definitions, place, seen)
        return
    if "const" in schema or "enum" in schema:
        return
    match schema.get("type"):
        case "string":
            is_short = "maxLength" in schema or "format" in schema
            if not (is_short or _ends(schema.get("pattern", ".*"))):
                yield f"{place}: a text without max_length"
        case "integer" | "number":
            for low, high in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                if low not in schema and high not in schema:
                    yield f"{place}: a number without {low}"
        case "array":
            if "maxItems" not in schema:
                yield f"{place}: a list without max_length"
            for item in [schema["items"]] if "items" in schema else schema["prefixItems"]:
                yield from unbounded(item, definitions, f"{place}/*", seen)
        case "object":
            yield from _unbounded_object(schema, definitions, place, seen)
        case "boolean" | "null":
            pass
        case _:
            yield f"{place}: any JSON"


def _unbounded_object(
    schema: Schema, definitions: Schema, place: str, seen: set[str]
) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield from unbounded(field, definitions, f"{place}/{name}", seen)
    values = [*schema.get("patternProperties", {}).values()]
    if schema.get("additionalProperties", "properties" not in schema) not in (False, True):
        values.append(schema["additionalProperties"])
    elif schema.get("additionalProperties") is True or not (values or "properties" in schema):
        values.append({})
    if values and "maxProperties" not in schema:
        yield f"{place}: a mapping without max_length"
    if "propertyNames" in schema:
        yield from unbounded({"type": "string"} | schema["propertyNames"], {}, f"{place}/KEY", seen)
    for value in values:
        yield from unbounded(value, definitions, f"{place}/*", seen)


def _ends(pattern: str) -> bool:
    """Return whether a pattern matches texts of a bounded length alone."""
    is_anchored = pattern.startswith("^") and pattern.endswith("$")
    return is_anchored and not _UNBOUNDED_QUANTIFIER.search(_CLASS.sub("x", pattern))


def _unbounded_model(model: Any) -> list[str]:
    schema = TypeAdapter(model).json_schema(mode="validation")
    return [*unbounded(schema, schema.get("$defs", {}), schema.get("title", ""), set())]


def test_every_value_of_a_request_to_the_api_has_a_bound() -> None:
    document = create_app(Ledger.open(MemoryStore()), MINIATURE).openapi()
    definitions = document["components"]["schemas"]
    found: list[str] = []
    bodies: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method.upper()} {path}"
            for parameter in operation.get("parameters", ()):
                place = f"{where} {parameter['in']} {parameter['name']}"
                # The server bounds the head of a request, and so all texts in a path.
                if parameter["in"] != "path" or parameter["schema"].get("type") != "string":
                    found += unbounded(parameter["schema"], definitions, place, bodies)
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                if media == "application/json":
                    found += unbounded(content["schema"], definitions, where, bodies)
    assert {"TrainingJobRequest", "GenerationJobRequest", "ImageGenerationRequest"} <= bodies
    assert found == []


@pytest.mark.parametrize("model", [TrainConfig, BundleDescription, GenerateRequest])
def test_every_value_that_a_stranger_may_choose_elsewhere_has_a_bound(model: Any) -> None:
    assert _unbounded_model(model) == []


class _Bounded(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=9)
    count: int = Field(ge=0, le=9)
    names: dict[str, bool] = Field(default={}, max_length=9)


@pytest.mark.parametrize(
    "field",
    [
        (str, ...),
        (int, ...),
        (int, Field(ge=0)),
        (float, Field(lt=1)),
        (list[bool], ...),
        (tuple[bool, ...] | None, None),
        (dict[str, bool], {}),
        (dict[str, str], Field(max_length=9)),
        (dict[str, JsonValue], Field(max_length=9)),
        (str, Field(pattern="^[a-z]+$")),
        (JsonValue, None),
    ],
)
def test_a_value_without_a_bound_is_found(field: Any) -> None:
    from pydantic import create_model

    assert _unbounded_model(_Bounded) == []
    model = create_model("Loose", __base__=_Bounded, added=field)
    assert any("added" in place for place in _unbounded_model(model))
