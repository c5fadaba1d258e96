"""`dti tokens`: learned tokens that the service stores."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options as shared
from dti_engine.cli.console import output_folder, print_json, print_paths, results, say
from dti_engine.cli.progress import ProgressBar
from dti_engine.config import ExportFormat
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.display import format_time
from services.cli.options import connect
from services.cli.requests import parse_tags
from services.cli.wait import fetch_export, fetch_token
from services.client.schemas import Token

if TYPE_CHECKING:
    from services.client.client import Client

_MAX_DOWNLOADS = 4  # at a time
_LISTED = 50

EXAMPLES = (
    "dti tokens",
    "dti tokens --alias rex --download tokens",
    "dti tokens --alias rex --download embeddings --format comfyui",
    "dti tokens --tag customer=7 --json",
)


_LimitOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="N",
        help="Number of tokens, the newest first.",
        show_default=f"{_LISTED}; all with --download",
    ),
]


def tokens(
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="List the tokens of one subject, by its id.", show_default="all"
        ),
    ] = None,
    tagged: Annotated[
        str | None,
        typer.Option(
            "--tag",
            metavar="NAME=VALUE",
            help="List the tokens of jobs with this tag.",
            show_default="all",
        ),
    ] = None,
    download: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Download the tokens to DIR, each as NAME.safetensors."),
    ] = None,
    file_format: Annotated[
        ExportFormat | None,
        typer.Option(
            "--format",
            help="With --download: write the files of another program, as [cyan]dti export[/] "
            "does. No torch is needed.",
            show_default="our own files",
        ),
    ] = None,
    limit: _LimitOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """List the tokens that the service has learned, the newest first, or download them.

    Files are the same as those of [cyan]dti train[/], so [cyan]dti generate[/] and
    [cyan]dti export[/] take them. Of several tokens of one subject, the newest becomes
    NAME.safetensors; the names of the others end in the last part of their ids.
    """
    if file_format and download is None:
        raise ConfigurationError("--format is the format of downloaded files; add --download DIR")
    limit = limit or (None if download else _LISTED)
    tags = parse_tags([tagged] if tagged else [])
    tag = next((f"{name}:{value}" for name, value in tags.items()), None)
    folder = output_folder(download) if download else None
    with connect(server, api_key) as client:
        # One more than is shown tells whether there are older ones.
        listed = list(islice(client.tokens(alias=alias, tag=tag), limit and limit + 1))
        paths = list[list[Path]]()
        if folder:
            paths = _download(client, listed[:limit], folder, file_format)
    shown = listed[:limit]
    _print_tokens(shown, paths, is_downloaded=folder is not None, as_json=as_json)
    if not shown:
        say("no such tokens" if alias or tag else "no tokens yet; `dti submit` trains them")
    elif len(listed) > len(shown):
        say(f"there are older tokens: add --limit {10 * len(shown)}")


def _print_tokens(
    tokens: Sequence[Token],
    paths: Sequence[Sequence[Path]],
    *,
    is_downloaded: bool,
    as_json: bool,
) -> None:
    """Print tokens as JSON, as the paths of their files, or as a table."""
    if as_json:
        documents = [token.model_dump(mode="json") for token in tokens]
        for document, files in zip(documents, paths, strict=False):
            document["path"] = str(files[0])
            document["paths"] = [str(path) for path in files]
        print_json({"tokens": documents})
    elif is_downloaded:
        print_paths([path for files in paths for path in files])
    elif tokens:
        results.print(_table(tokens))


def _download(
    client: "Client", tokens: Sequence[Token], folder: Path, file_format: ExportFormat | None
) -> list[list[Path]]:
    """Download the tokens and return the paths of each. Raises: ClientError; OutputError."""
    newest = dict[str, str]()
    for token in tokens:
        newest.setdefault(token.alias, token.token)
    notes = set[str]()
    with ProgressBar("downloading", len(tokens)) as progress:

        def download(token: Token) -> list[Path]:
            is_newest = newest[token.alias] == token.token
            # The last 15 characters hold a part of the job's id, the round and the index.
            name = token.alias if is_newest else f"{token.alias}-{token.token[-15:]}"
            if file_format:
                exported = fetch_export(client, token.token, folder, name, file_format)
                paths = list(exported.contents)
                notes.add(f"in a prompt of {file_format}: {exported.prompt_name}")
                notes.update([exported.note] if exported.note else [])
            else:
                paths = [fetch_token(client, token.token, folder, name, sha256=token.sha256)]
            progress.advance()
            return paths

        pool = ThreadPoolExecutor(_MAX_DOWNLOADS)
        try:
            found = list(pool.map(download, tokens))
        finally:
            pool.shutdown(cancel_futures=True)
    for note in sorted(notes):
        say(note)
    return found


def _table(tokens: Sequence[Token]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("token", style="cyan", no_wrap=True)
    table.add_column("subject", overflow="fold")
    names = {token.token: str((token.report or {}).get("placeholder", "")) for token in tokens}
    # Most placeholders are the subject's name, and columns are scarce.
    is_named = any(names[token.token] != f"<{token.alias}>" for token in tokens)
    if is_named:
        table.add_column("placeholder", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("learned", no_wrap=True)
    for token in tokens:
        score = (token.report or {}).get("subject_score")
        table.add_row(
            token.token,
            escape(token.alias),
            *([escape(names[token.token])] if is_named else []),
            f"{score:.3f}" if isinstance(score, float) else "-",
            format_time(token.created) if token.created else "-",
        )
    return table
