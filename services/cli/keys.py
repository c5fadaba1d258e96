"""`dti keys`: API keys and limits of tenants, for operators.

The commands write to the service's store, not over HTTP: access to the store makes the operator.
"""

import re
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine.cli.console import Commands, mount, print_json, results, say
from dti_engine.cli.options import JsonOption
from services.cli.jobs import confirm_deletion
from services.cli.options import YesOption
from services.errors import DeletedError, SettingsError

if TYPE_CHECKING:
    from services.auth.keys import KeyView, NewKey
    from services.storage.interface import Store

CREATE_EXAMPLES = (
    "dti keys create acme --store s3://bucket/dti",
    "dti keys create acme --name 'nightly import'",
    "dti keys create acme --scope generate --expires 90d",
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
ROTATE_SECRET_EXAMPLES = (
    "dti keys rotate-webhook-secret acme",
    "dti keys rotate-webhook-secret acme --grace 7d",
)
ROTATE_LINKS_EXAMPLES = ("dti keys rotate-links --store s3://bucket/dti",)
DELETE_EXAMPLES = ("dti keys delete-tenant acme", "dti keys delete-tenant acme --yes")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_GRACE = timedelta(days=3650)

StoreOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="DTI_STORE",
        help="Store of the service: s3://BUCKET/PREFIX, file:///FOLDER or a path.",
        show_default=False,
    ),
]
TenantArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="TENANT",
        help="Name of the tenant: 1 to 63 of a-z, 0-9 and -.",
        show_default=False,
    ),
]
KeyArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Id of the key, as [cyan]dti keys list[/] shows it.",
        show_default=False,
    ),
]


def create(
    tenant: TenantArgument,
    store: StoreOption,
    name: Annotated[
        str, typer.Option(metavar="TEXT", help="What the key is for.", show_default=False)
    ] = "",
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="What requests may do: [cyan]all[/], [cyan]read[/] (only read), or "
            "[cyan]generate[/] (make images and generation jobs, delete nothing).",
        ),
    ] = "all",
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the key is valid: 30m, 24h, 90d.",
            show_default="for good",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key of a tenant, and print it; it is stored nowhere and never shown again.

    The first key of a tenant creates the tenant.
    """
    from services.auth.keys import create_key
    from services.auth.scopes import SCOPES, find_scope

    if (known := find_scope(scope)) is None:
        raise SettingsError(f"--scope {scope!r} is not known: give {', '.join(SCOPES)}")
    valid_for = None if expires is None else _parse_duration(expires, "--expires")
    new = create_key(_open_store(store), tenant, name, scope=known, valid_for=valid_for)
    _print_new_key(new, tenant, as_json=as_json)


def list_(
    store: StoreOption,
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="List the keys of this tenant.", show_default="all"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List API keys, including revoked and expired ones."""
    from services.auth.keys import list_keys

    opened = _open_store(store)
    keys, now = list_keys(opened, tenant), opened.now()
    if as_json:
        print_json({"keys": [_document(key, now) for key in keys]})
    elif keys:
        # The state has a time of its own: the date is enough here, so that a row fits 80 columns.
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for heading in ("key", "tenant", "name", "scope", "created", "state"):
            table.add_column(heading, no_wrap=heading in ("key", "state"))
        for key in keys:
            created, state = f"{key.created:%Y-%m-%d}", _state(key, now)
            table.add_row(key.id, key.tenant, escape(key.name), key.scope, created, state)
        results.print(table)
    else:
        say("there are no keys: `dti keys create TENANT` makes one")


def rotate(
    key: KeyArgument,
    store: StoreOption,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key stays valid: 0, 30m, 24h, 7d.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Replace an API key by a new one, and print it; the old key stays valid for a while."""
    from services.auth.keys import read_key, rotate_key

    opened = _open_store(store)
    new = rotate_key(opened, key, _parse_duration(grace))
    _print_new_key(new, read_key(opened, new.id)[1].tenant, as_json=as_json)
    if not as_json:
        say(f"key {key} stays valid for {grace}")


def revoke(key: KeyArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Revoke an API key for good; the API refuses it within 30 seconds."""
    from services.auth.keys import revoke_key

    revoke_key(_open_store(store), key)
    if as_json:
        print_json({"key": key, "state": "revoked"})
    else:
        say(f"key {key} is revoked; the API refuses it within 30 seconds")


def _limit_option(description: str) -> Any:
    """Return the option of one limit, which stays as it is unless it is given."""
    return typer.Option(metavar="N", help=description, show_default=False)


def limits(
    tenant: TenantArgument,
    store: StoreOption,
    requests_per_second: Annotated[
        float | None, _limit_option("Requests per second that each API process accepts.")
    ] = None,
    burst: Annotated[
        int | None, _limit_option("Requests that may exceed the rate at once.")
    ] = None,
    open_items: Annotated[
        int | None, _limit_option("Items that may be open at a time, in all jobs.")
    ] = None,
    upload_bytes: Annotated[int | None, _limit_option("Largest upload in bytes.")] = None,
    order_pixel_steps: Annotated[
        int | None,
        _limit_option(
            "Largest cost of one request or job: steps x pixels x batch size, over its items."
        ),
    ] = None,
    order_bytes: Annotated[
        int | None, _limit_option("Largest job in bytes, as it is stored.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the limits of a tenant, after changing those that are given.

    A change takes effect within 30 seconds.
    """
    from services.auth.tenants import read_tenant, set_limits

    requested = {
        "requests_per_second": requests_per_second,
        "burst": burst,
        "open_items": open_items,
        "upload_bytes": upload_bytes,
        "order_pixel_steps": order_pixel_steps,
        "order_bytes": order_bytes,
    }
    changes = {name: value for name, value in requested.items() if value is not None}
    opened = _open_store(store)
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
    """Print the secret that signs a tenant's webhooks; only its receivers should know it."""
    from services.auth.tenants import read_tenant

    secret = read_tenant(_open_store(store), tenant).webhook_secret
    if as_json:
        print_json({"tenant": tenant, "webhook_secret": secret})
    else:
        typer.echo(secret)


def rotate_webhook_secret(
    tenant: TenantArgument,
    store: StoreOption,
    grace: Annotated[
        str,
        typer.Option(metavar="TIME", help="How long the old secret signs too: 0, 30m, 24h, 7d."),
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Replace the secret that signs a tenant's webhooks, and print the new one.

    For a while each message has a signature by the new and by the old secret, so that receivers
    can change over without refusing one.
    """
    from services.auth.tenants import rotate_webhook_secret as rotate_secret

    secret = rotate_secret(_open_store(store), tenant, _parse_duration(grace))
    if as_json:
        print_json({"tenant": tenant, "webhook_secret": secret})
    else:
        say(f"webhooks of {tenant} are signed by this secret, and by the old one for {grace}:")
        typer.echo(secret)


def rotate_links(store: StoreOption, as_json: JsonOption = False) -> None:
    """Rotate the keys that sign links to images, of all tenants.

    Links that were signed before stay valid until they expire, or until the third rotation from
    now. Wait at least a minute between rotations: the API caches the keys for that long.
    """
    from services.api.images.store import rotate_link_keys

    rotate_link_keys(_open_store(store))
    if as_json:
        print_json({"rotated": "links"})
    else:
        say("the keys of links are rotated; the API signs with the new key within 60 seconds")


def delete_tenant(
    tenant: TenantArgument,
    store: StoreOption,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a tenant for good, with its jobs, tokens, uploads and images; revoke its keys.

    Its name cannot be used again.
    """
    from services.auth.keys import remove_tenant
    from services.auth.tenants import read_tenant
    from services.ledger.ledger import Ledger
    from services.webhooks.subscriptions import unsubscribe_tenant

    opened = _open_store(store)
    with suppress(DeletedError):  # an earlier deletion that was interrupted is completed
        read_tenant(opened, tenant)
    confirm_deletion(f"tenant {tenant} with everything it owns", yes=yes)
    ledger = Ledger.open(opened)
    remove_tenant(ledger, tenant)
    unsubscribe_tenant(ledger, tenant)
    if as_json:
        print_json({"deleted": tenant})
    else:
        say(f"tenant {tenant} is deleted; the API refuses its keys within 30 seconds")


def _open_store(url: str) -> "Store":
    """Open a store that has passed the probe.

    Raises:
        SettingsError: It is memory:, which no other process sees.
        StoreRefusedError: The store breaks a promise that the service relies on.
    """
    from services.storage.open import open_store
    from services.storage.probe_record import ensure_probed

    if url.startswith("memory:"):
        raise SettingsError(
            "the store memory: ends with this command: give the store of the service"
        )
    store = open_store(url)
    ensure_probed(store)
    return store


def _parse_duration(text: str, option: str = "--grace") -> timedelta:
    """Parse 0, 30m, 24h or 7d. Raises: SettingsError."""
    if text == "0":
        return timedelta(0)
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII):
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if duration <= _MAX_GRACE:
            return duration
    raise SettingsError(f"{option} {text!r} is not a time: give 0, 30m, 24h or 7d, up to 3650d")


def _print_new_key(new: "NewKey", tenant: str, *, as_json: bool) -> None:
    """Print the credential alone to stdout, for pipes."""
    if as_json:
        print_json({"key": new.id, "tenant": tenant, "credential": new.credential})
        return
    say(f"key {new.id} of {tenant}; store the following credential, it is not shown again:")
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
        "scope": key.scope,
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires else None,
        "revoked": key.revoked.isoformat() if key.revoked else None,
        "valid": key.is_valid(now),
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Manage API keys and limits of tenants in the service's store, as an operator.",
)
mount(app, create, CREATE_EXAMPLES)
mount(app, list_, LIST_EXAMPLES, name="list")
mount(app, rotate, ROTATE_EXAMPLES)
mount(app, revoke, REVOKE_EXAMPLES)
mount(app, limits, LIMITS_EXAMPLES)
mount(app, webhook_secret, SECRET_EXAMPLES, name="webhook-secret")
mount(app, rotate_webhook_secret, ROTATE_SECRET_EXAMPLES, name="rotate-webhook-secret")
mount(app, rotate_links, ROTATE_LINKS_EXAMPLES, name="rotate-links")
mount(app, delete_tenant, DELETE_EXAMPLES, name="delete-tenant")
