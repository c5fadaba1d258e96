"""`dti keys`: who may use the service. Works on its store, not over HTTP: whoever can write there
is the operator.
"""

import re
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli.console import Commands, mount, print_json, results, say
from dti_engine.cli.options import JsonOption
from services.cli.delete import ask
from services.errors import DeletedError, SettingsError

if TYPE_CHECKING:
    from services.auth.keys import KeyView, NewKey
    from services.storage.interface import Store

CREATE_EXAMPLES = (
    "dti keys create acme --store s3://bucket/dti",
    "dti keys create acme --name 'nightly import'",
    "export DTI_API_KEY=$(dti keys create acme)",
)
LIST_EXAMPLES = ("dti keys list", "dti keys list acme --json")
ROTATE_EXAMPLES = (
    "dti keys rotate ux5dqc7xgf2kq3ab",
    "dti keys rotate ux5dqc7xgf2kq3ab --grace 7d",
)
REVOKE_EXAMPLES = ("dti keys revoke ux5dqc7xgf2kq3ab",)
LIMITS_EXAMPLES = (
    "dti keys limits acme",
    "dti keys limits acme --requests-per-second 50 --burst 200",
)

SECRET_EXAMPLES = ("dti keys webhook-secret acme",)
DELETE_EXAMPLES = ("dti keys delete-tenant acme", "dti keys delete-tenant acme --yes")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=3650)

StoreOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="DTI_STORE",
        help="Of the service: s3://BUCKET/PREFIX, file:///FOLDER or a path.",
        show_default=False,
    ),
]
TenantArgument: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="TENANT", help="1 to 63 of a-z, 0-9 and -.", show_default=False),
]
KeyArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="Its id, as [cyan]dti keys list[/] shows it.", show_default=False
    ),
]


def create(
    tenant: TenantArgument,
    store: StoreOption,
    name: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key of a tenant, and print it: this once, for it is kept nowhere.

    The tenant is made with its first key.
    """
    from services.auth.keys import create_key

    _print_new(create_key(_opened(store), tenant, name), tenant, as_json=as_json)


def list_(
    store: StoreOption,
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="Its keys alone.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show all keys, also those that are valid no more."""
    from services.auth.keys import list_keys

    opened = _opened(store)
    keys, now = list_keys(opened, tenant), opened.now()
    if as_json:
        print_json({"keys": [_document(key, now) for key in keys]})
    elif keys:
        table = Table("key", "tenant", "name", "created", "state")
        for key in keys:
            created, state = f"{key.created:%Y-%m-%d %H:%M}", _state(key, now)
            table.add_row(key.id, key.tenant, escape(key.name), created, state)
        results.print(table)
    else:
        say("there are no keys: dti keys create TENANT makes one")


def rotate(
    key: KeyArgument,
    store: StoreOption,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="The old one goes on for: 0, 30m, 24h, 7d.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a new key in place of an old one, which goes on for a while, and print it: this once."""
    from services.auth.keys import read_key, rotate_key

    opened, pause = _opened(store), _duration(grace)
    new = rotate_key(opened, key, pause)
    _print_new(new, read_key(opened, new.id)[1].tenant, as_json=as_json)
    if not as_json:
        say(f"key {key} goes on for {grace}")


def revoke(key: KeyArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Let a key be refused: everywhere within 30 seconds, and for good."""
    from services.auth.keys import revoke_key

    revoke_key(_opened(store), key)
    if as_json:
        print_json({"key": key, "state": "revoked"})
    else:
        say(f"key {key} is revoked; the API refuses it within 30 seconds")


def limits(
    tenant: TenantArgument,
    store: StoreOption,
    requests_per_second: Annotated[
        float | None, typer.Option(metavar="N", help="In each API process.", show_default=False)
    ] = None,
    burst: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at once.", show_default=False)
    ] = None,
    open_items: Annotated[
        int | None,
        typer.Option(metavar="N", help="That have not ended, in all its jobs.", show_default=False),
    ] = None,
    upload_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Of one upload.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a tenant may use, after changing what is given; that holds within 30 seconds."""
    from services.auth.tenants import read_tenant, set_limits

    given = {
        "requests_per_second": requests_per_second,
        "burst": burst,
        "open_items": open_items,
        "upload_bytes": upload_bytes,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    opened = _opened(store)
    now = read_tenant(opened, tenant).limits
    if changes:
        now = set_limits(opened, tenant, changes)
    if as_json:
        print_json({"tenant": tenant, "limits": now.model_dump()})
    else:
        table = Table("limit", "of " + tenant)
        for name, value in now.model_dump().items():
            table.add_row(name.replace("_", " "), f"{value:,}")
        results.print(table)


def webhook_secret(tenant: TenantArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Print what webhooks of a tenant are signed with, which is for its receivers alone."""
    from services.auth.tenants import read_tenant

    secret = read_tenant(_opened(store), tenant).webhook_secret
    if as_json:
        print_json({"tenant": tenant, "webhook_secret": secret})
    else:
        typer.echo(secret)


def delete_tenant(
    tenant: TenantArgument,
    store: StoreOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a tenant for good: its jobs, tokens, uploads and images; its keys are revoked.

    Nobody can ever be called so again.
    """
    from services.auth.keys import remove_tenant
    from services.auth.tenants import read_tenant
    from services.ledger.ledger import Ledger

    opened = _opened(store)
    with suppress(DeletedError):  # what was begun is ended
        read_tenant(opened, tenant)
    ask(f"tenant {tenant} with all that it has", yes=yes)
    remove_tenant(Ledger.open(opened), tenant)
    if as_json:
        print_json({"deleted": tenant})
    else:
        say(f"tenant {tenant} is deleted; the API refuses its keys within 30 seconds")


def _opened(url: str) -> "Store":
    """Raises: SettingsError for memory, which is nobody else's."""
    from services.storage.open import open_store

    if url.startswith("memory:"):
        raise SettingsError(
            "keys were asked for in memory:, which ends with this command: give the store of the "
            "service"
        )
    return open_store(url)


def _duration(text: str) -> timedelta:
    if text == "0":
        return timedelta(0)
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII):
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if duration <= _LONGEST:
            return duration
    raise SettingsError(f"a grace of {text!r} was given: give 0, 30m, 24h or 7d, up to 3650d")


def _print_new(new: "NewKey", tenant: str, *, as_json: bool) -> None:
    """The credential alone on stdout, for pipes."""
    if as_json:
        print_json({"key": new.id, "tenant": tenant, "credential": new.credential})
        return
    say(f"key {new.id} of {tenant}; keep what follows, it is not shown again:")
    typer.echo(new.credential)


def _state(key: "KeyView", now: datetime) -> str:
    if key.revoked:
        return f"revoked {key.revoked:%Y-%m-%d %H:%M}"
    if key.expires:
        return f"{'expires' if key.is_valid(now) else 'expired'} {key.expires:%Y-%m-%d %H:%M}"
    return "valid"


def _document(key: "KeyView", now: datetime) -> dict[str, Any]:
    return {
        "key": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "valid": key.is_valid(now),
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Keys of tenants, and what they may use: for operators, on the service's store.",
)
mount(app, create, CREATE_EXAMPLES)
mount(app, list_, LIST_EXAMPLES, name="list")
mount(app, rotate, ROTATE_EXAMPLES)
mount(app, revoke, REVOKE_EXAMPLES)
mount(app, limits, LIMITS_EXAMPLES)
mount(app, webhook_secret, SECRET_EXAMPLES, name="webhook-secret")
mount(app, delete_tenant, DELETE_EXAMPLES, name="delete-tenant")
