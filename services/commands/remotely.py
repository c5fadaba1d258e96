"""Commands of the engine that a service can do as well: with --server, nothing is computed here."""

import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeAlias

import typer

from dti_engine.errors import ConfigurationError
from services.commands import options

_Server: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Have this service paint; see above.",
        rich_help_panel=options.PANEL,
        show_default="this machine paints",
    ),
]
_Size: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="With --server: width and height in pixels.",
        rich_help_panel=options.PANEL,
        show_default="the model's own",
    ),
]
_ADDED = {"server": _Server, "api_key": options.ApiKeyOption, "size": _Size}


def with_server(
    local: Callable[..., None],
    remote: Callable[..., None],
    *,
    not_there: Collection[str],
    about: str,
) -> Callable[..., None]:
    """`local`, and with --server, `remote`: it is given the server, the key, and what was said on
    the command line, by the names of `local`'s parameters; the service knows the rest best.

    not_there: parameters that say nothing to a service, and are refused. about: a paragraph for the
    help. Raises: ConfigurationError when it is called, if options contradict each other.
    """
    given = list(inspect.signature(local).parameters.values())

    def command(ctx: typer.Context, **values: Any) -> None:
        server, key, size = (values.pop(name) for name in _ADDED)
        if server is None:
            if size is not None:
                raise ConfigurationError("--size is for pictures that a service paints: --server")
            local(**values)
            return
        said = {name: value for name, value in values.items() if _is_said(ctx, name)}
        if wrong := [_option(ctx, name) for name in not_there if name in said]:
            raise ConfigurationError(
                f"{', '.join(wrong)} cannot be said to a service: leave it out with --server"
            )
        remote(server, key, **said, **({"size": size} if size else {}))

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _ADDED.items()
    ]
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = [context, *given, *added]
    # What Typer reads of a function, which has no parameters of its own.
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__ = local.__name__
    command.__doc__ = f"{inspect.cleandoc(local.__doc__ or '')}\n\n{about}"
    return command


def _is_said(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _option(ctx: typer.Context, name: str) -> str:
    """As it is written."""
    return next(each.opts[0] for each in ctx.command.params if each.name == name)
