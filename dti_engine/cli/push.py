"""`dti push`: publish a token on the Hugging Face Hub, with a model card and previews."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.cli import options
from dti_engine.cli.console import print_json, print_paths, quiet_libraries, require_extra, say
from dti_engine.errors import ConfigurationError, DTIError, FailedError
from dti_engine.files import atomic_write, require_replaceable, require_separate

EXAMPLES = (
    "dti push tokens/rex.safetensors me/rex --license cc-by-4.0",
    "dti push tokens/rex.safetensors me/rex --license cc-by-4.0 --private",
    "dti push tokens/rex.safetensors me/rex --license cc-by-4.0 --dry-run -o rex-card",
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")

_OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="With --dry-run: the folder for the files.",
        show_default="NAME of the repository",
    ),
]


def push(
    file: options.TokenArgument,
    repository: Annotated[
        str,
        typer.Argument(metavar="OWNER/NAME", help="The repository to make.", show_default=False),
    ],
    license_id: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="ID",
            help="The licence of the token, as the Hub names it, such as [cyan]cc-by-4.0[/]. The "
            "images that it was learned from, and the model's licence, decide what is allowed.",
            show_default=False,
        ),
    ],
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="The hub id of the model.", show_default="the token's model"
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Show it to its owner only.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Replace the files of a repository that exists.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the files to --output and send nothing.")
    ] = False,
    output: _OutputOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Publish a token on the Hugging Face Hub: its files, a model card and validation images.

    The card has the licence, the model and the prompt for programs, and shows how to use the token.
    No image that the token was learned from is sent, and neither are the names of their files.
    """
    require_extra("engine")
    from dti_engine.quality.hub_folder import hub_files

    name = _require_names(repository, license_id, base_model)
    if output and not dry_run:
        raise ConfigurationError("--output is the folder of --dry-run; add --dry-run, or leave it")
    files = hub_files(file, name, license_id=license_id, base_model=base_model)
    if dry_run:
        paths = _write(files, output or Path(name), file, force=force)
        if as_json:
            print_json({"repository": repository, "files": [str(path) for path in paths]})
        else:
            print_paths(paths)
        return
    url = upload(files, repository, private=private, update=update)
    if as_json:
        print_json({"repository": repository, "url": url, "files": sorted(files)})
    else:
        say(f"{len(files)} files are published")
        typer.echo(url)


def upload(files: Mapping[str, bytes], repository: str, *, private: bool, update: bool) -> str:
    """Make the repository with these files in one commit, and return its URL.

    Raises: ConfigurationError if the Hub refuses; FailedError if it cannot be reached, or fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    quiet_libraries(downloading=False)
    hub = HfApi()
    try:
        url = hub.create_repo(
            repository, visibility="private" if private else None, exist_ok=update
        )
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                atomic_write(Path(folder) / path, content)
            hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Publish a token of dti"
            )
    except LocalTokenNotFoundError as error:
        raise _login_error() from error
    except HfHubHTTPError as error:
        raise _refusal(error.response.status_code, repository, str(error)) from error
    except OfflineModeIsEnabled as error:
        raise FailedError("the Hub is switched off by HF_HUB_OFFLINE; unset it") from error
    except (HTTPError, OSError) as error:
        raise FailedError(
            f"the Hub at {hub.endpoint} cannot be reached ({error}); try again later, or write the "
            "files with --dry-run"
        ) from error
    except ValueError as error:  # its check of the card
        raise ConfigurationError(f"the Hub refuses the model card: {error}") from error
    return str(url)


def _refusal(status: int, repository: str, reason: str) -> DTIError:
    """Return the error of an HTTP status of the Hub."""
    owner = repository.partition("/")[0]
    if status == 401:
        return _login_error()
    if status == 403:
        return ConfigurationError(
            f"your account may not write to {owner!r}; name your own account or an organisation "
            "that you belong to, and use a token with the right to write"
        )
    if status == 409:
        return ConfigurationError(
            f"{repository} is on the Hub already; give another name, or --update to replace its "
            "files"
        )
    if status >= 500 or status == 429:
        return FailedError(f"the Hub failed with status {status}; try again later")
    return ConfigurationError(f"the Hub refuses the request: {reason}")


def _login_error() -> ConfigurationError:
    return ConfigurationError(
        "you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN, with a token that "
        "has the right to write"
    )


def _require_names(repository: str, license_id: str, base_model: str | None) -> str:
    """Return the name of the repository without its owner. Raises: ConfigurationError."""
    for option, value in (("the repository", repository), ("--base-model", base_model)):
        if value is not None and not _REPOSITORY.fullmatch(value):
            raise ConfigurationError(
                f"{option} is {value!r}; write OWNER/NAME, of letters, digits, '.', '-' and '_'"
            )
    if not _LICENSE.fullmatch(license_id):
        raise ConfigurationError(
            f"--license is {license_id!r}; write an id of the Hub, such as cc-by-4.0, apache-2.0, "
            "creativeml-openrail-m or other"
        )
    return repository.partition("/")[2]


def _write(files: Mapping[str, bytes], folder: Path, token: Path, *, force: bool) -> list[Path]:
    """Write the files, and return their paths. Raises: ConfigurationError; OutputError."""
    contents = {folder / path: content for path, content in sorted(files.items())}
    require_separate(contents, [token])
    for path, content in contents.items():
        require_replaceable(path, lambda data, new=content: data == new, force=force)
    for path, content in contents.items():
        atomic_write(path, content)
    return list(contents)
