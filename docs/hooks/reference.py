"""Pages that the site makes from the code: the commands from their help, the API from OpenAPI."""

import re
from collections.abc import Iterator
from typing import Any

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add reference/commands.md and reference/openapi.md."""
    for name, lines in (("commands", _commands()), ("openapi", _openapi())):
        content = "\n".join(lines) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _commands() -> Iterator[str]:
    from services.cli_app import app

    yield "# Commands\n"
    yield "The help of every command, as `dti COMMAND --help` prints it.\n"
    root = typer.main.get_command(app)
    yield from _command(root, "dti", click.Context(root, info_name="dti"))


def _command(command: Any, name: str, context: Any) -> Iterator[str]:
    if name != "dti":
        yield f"## {name}\n"
        help_text = _plain((command.help or "").split("\f")[0].strip())
        yield f"{help_text}\n"
        rows = [record for each in command.get_params(context) if (record := _option(each))]
        if rows:
            yield "| option | meaning |"
            yield "|---|---|"
            yield from rows
            yield ""
    for child, each in sorted(getattr(command, "commands", {}).items()):
        if not each.hidden:
            yield from _command(each, f"{name} {child}", click.Context(each, info_name=child))


def _option(parameter: Any) -> str | None:
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return None
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if not parameter.opts[0].startswith("-"):
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    text = _plain(" ".join((getattr(parameter, "help", "") or "").split()))
    return f"| {_cell(names)} | {_cell(text)} |"


def _plain(text: str) -> str:
    """Return help without the markup of rich, except for what it sets as code."""
    return re.sub(r"\[(?:/|cyan|bold|dim|green|red)\]", "`", text)


def _openapi() -> Iterator[str]:
    from services.api.app import create_app
    from services.contracts.models import MINIATURE
    from services.ledger.ledger import Ledger
    from services.settings import LedgerSettings
    from services.storage.memory import MemoryStore

    document = create_app(Ledger.open(MemoryStore(), LedgerSettings()), MINIATURE).openapi()
    yield "# OpenAPI\n"
    yield "Every operation of the HTTP API, from the document that `GET /openapi.json` returns.\n"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n"
            yield f"**{operation['summary']}.** {operation.get('description', '')}\n"
            if parameters := operation.get("parameters"):
                yield "| parameter | in | meaning |"
                yield "|---|---|---|"
                for each in parameters:
                    meaning = each.get("description", each["schema"].get("description", ""))
                    yield f"| `{each['name']}` | {each['in']} | {_cell(meaning)} |"
                yield ""
            body = operation.get("requestBody", {}).get("content", {})
            for media_type, content in body.items():
                yield f"Body (`{media_type}`): {_schema(content.get('schema', {}))}\n"
            yield "| status | meaning |"
            yield "|---|---|"
            for status, answer in operation["responses"].items():
                yield f"| {status} | {_cell(answer['description'])} |"
            yield ""
    yield "## Schemas\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"### {name}\n"
        yield f"{schema.get('description', '')}\n"
        if properties := schema.get("properties"):
            required = set(schema.get("required", ()))
            yield "| field | type | required | meaning |"
            yield "|---|---|---|---|"
            for field, each in properties.items():
                needed = "yes" if field in required else ""
                kind, meaning = _schema(each), each.get("description", "")
                yield f"| `{field}` | {_cell(kind)} | {needed} | {_cell(meaning)} |"
            yield ""


def _schema(schema: dict[str, Any]) -> str:
    """Return a type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_schema(each) for each in schema[several])
    if schema.get("type") == "array":
        return f"list of {_schema(schema.get('items', {}))}"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    return str(schema.get("type", "any"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
