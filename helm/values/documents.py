"""Generation of the chart's `values.yaml`, `values.schema.json`, `README.md` and defaults."""

import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dti_engine.recipes import RECIPES
from helm.values.base import AllPods, Pod, Resources, Settings, is_free_map
from helm.values.chart import Values
from services.auth.tenants import Limits
from services.contracts.models import (
    MAX_CALIBRATED_BATCH_SIZE,
    EngineModel,
    EngineSettings,
    GenerationSettings,
    ServedModel,
)
from services.settings import ApiSettings

_CHART = Path(__file__).parents[1] / "dti"
_WIDTH = 100
_HEADER = """\
# The values of the chart. Written by `make chart` from helm/values/*.py: change them there.
# README.md lists the same as a table, with what stands in the maps that are empty here.
"""


def files() -> dict[str, str]:
    """Return the generated files of the chart by their path in it."""
    return {
        "values.yaml": values_yaml(),
        "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        "README.md": readme(),
        "files/defaults.json": json.dumps(defaults(), indent=1) + "\n",
    }


def defaults() -> dict[str, Any]:
    """Return the defaults of settings that templates compute with."""
    api = ApiSettings().model_dump(
        include={"generation_timeout_s", "max_body_bytes", "max_manifest_bytes"}
    )
    api["upload_bytes"] = Limits().upload_bytes
    model = ServedModel(weights="-", recipe="-").model_dump(
        include={"gpus", "cpus", "min_workers", "max_workers"}
    )
    generation = GenerationSettings().model_dump(include={"min_engines", "max_engines"})
    return {
        "api": api,
        "model": model,
        "generation": generation,
        "batch_size": MAX_CALIBRATED_BATCH_SIZE,
        "engine_fields": sorted(EngineModel.model_fields),
        "generation_fields": sorted(EngineSettings.model_fields),
        "recipes": sorted(RECIPES),
    }


def values_yaml() -> str:
    """Return the text of values.yaml: every value with its default and description."""
    return _HEADER + "\n".join(_section_lines(Values(), "")) + "\n"


def _section_lines(section: BaseModel, indent: str) -> Iterator[str]:
    shared = (
        Pod.model_fields if isinstance(section, Pod) and not isinstance(section, AllPods) else {}
    )
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if name in shared:
            continue
        key = info.alias or name
        if not indent:
            yield ""
        comment = sentence(description(info))
        if _has_fields_of_all_pods(type(value)):
            comment += " The fields of `allPods` may stand here too."
        yield from (
            f"{indent}# {line}" for line in textwrap.wrap(comment, _WIDTH - len(indent) - 2)
        )
        # Resources are short, and settings and models have no defaults of the chart's own.
        if isinstance(value, BaseModel) and not isinstance(value, Resources | Settings):
            yield f"{indent}{key}:"
            yield from _section_lines(value, indent + "  ")
        else:
            text = yaml.safe_dump({key: plain(value)}, sort_keys=False, width=_WIDTH)
            yield from textwrap.indent(text.rstrip(), indent).split("\n")


def _has_fields_of_all_pods(model: type) -> bool:
    """Return whether a section has the fields of `allPods` besides its own."""
    return issubclass(model, Pod) and not issubclass(model, AllPods)


def plain(value: Any) -> Any:
    """Return a default as YAML has it: of settings and models only what is given."""
    if isinstance(value, Settings | ServedModel):
        return plain(value.model_dump(mode="json", exclude_unset=True))
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json", by_alias=True))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def description(info: FieldInfo) -> str:
    """Return the description of a value: its own, or that of its section."""
    if info.description:
        return info.description
    section = _nested(info.annotation)
    assert section is not None, f"a value has no description: {info}"
    return " ".join(inspect.cleandoc(section.__doc__ or "").split())


def sentence(text: str) -> str:
    """Return a description with an initial capital and a full stop, unless it begins with code."""
    capital = text if text.startswith("`") else text[:1].upper() + text[1:]
    return capital.rstrip(".") + "."


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the values, which refuses unknown keys at every depth."""
    generated = Values.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_strict(generated),
    }


def _strict(node: Any) -> Any:
    """Return a schema that names the allowed keys wherever it refuses unknown ones."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    strict = {
        key: {name: _strict(each) for name, each in value.items()}
        if key in ("properties", "$defs", "patternProperties")
        else _strict(value)
        for key, value in node.items()
        # A title repeats the name, and Helm takes defaults from values.yaml alone.
        if key not in ("title", "default")
    }
    if "properties" in strict and strict.get("additionalProperties") is False:
        # Helm's message on additionalProperties does not say what is allowed; this one does.
        strict["propertyNames"] = {"enum": sorted(strict["properties"])}
    if patterns := strict.get("patternProperties"):
        # pydantic lets keys pass that match no pattern.
        strict["additionalProperties"] = False
        strict["propertyNames"] = {"pattern": "|".join(patterns)}
    return strict


def rows(
    model: type[BaseModel], path: str = "", given: BaseModel | None = None
) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and description of every value below a section, in order.

    The defaults are those of `given`, where there is one.
    """
    shared = _has_fields_of_all_pods(model)
    if shared:
        yield f"{path}*", "", "The fields of `allPods`, which are added to those."
    for name, info in model.model_fields.items():
        if shared and name in Pod.model_fields:
            continue
        place = f"{path}{info.alias or name}"
        default = info.get_default() if given is None else getattr(given, name)
        nested = _nested(info.annotation)
        if nested is None or nested is Resources:
            shown = "required" if given is None and info.is_required() else _shown(default)
            yield place, shown, sentence(description(info))
        elif is_free_map(info.annotation):
            yield place, _shown(default), sentence(description(info))
            yield from rows(nested, f"{place}.NAME.")
        else:
            yield from rows(nested, f"{place}.", default)


def readme() -> str:
    """Return the chart's README: what stands in `README.head.md`, and tables of all values."""
    parts = [(_CHART / "README.head.md").read_text().rstrip()]
    loose: list[tuple[str, str, str]] = []
    for name, info in Values.model_fields.items():
        key, nested = info.alias or name, _nested(info.annotation)
        if nested is None:
            loose += [(key, _shown(info.default), sentence(description(info)))]
            continue
        named = is_free_map(info.annotation)
        entries = rows(nested, f"{key}.NAME.") if named else rows(nested, f"{key}.", info.default)
        parts += [f"### `{key}`", sentence(description(info)), _table(entries)]
    return "\n\n".join([parts[0], "### Single values", _table(loose), *parts[1:]]) + "\n"


def _table(entries: Iterable[tuple[str, str, str]]) -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in entries:
        cells = (f"`{path}`", default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _nested(annotation: Any) -> type[BaseModel] | None:
    """Return the class of the section that a value is, or of which it is a map by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if is_free_map(annotation):
        return _nested(get_args(annotation)[1])
    return None


def _shown(default: Any) -> str:
    value = plain(default)
    return "" if value in ("", None) else f"`{json.dumps(value)}`"
