"""`dti keys` on a directory: its output, and its effect on authentication."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.api.images.store import SignedLinks
from services.auth.authenticator import Authenticator
from services.auth.tenants import read_tenant
from services.cli import keys
from services.errors import UnknownKeyError
from services.storage.directory import DirectoryStore

Keys = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def dti_keys(folder: Path) -> Keys:
    """dti_keys("create", "acme") -> what the command did to the store in `folder`."""
    environment = {"DTI_STORE": str(folder), "COLUMNS": "200"}
    return lambda *arguments: CliRunner(env=environment).invoke(keys.app, arguments)


def _let_in(folder: Path, credential: str) -> str:
    return Authenticator(DirectoryStore(folder)).authenticate(credential).tenant


def test_a_new_key_is_on_stdout_alone_and_lets_its_tenant_in(dti_keys: Keys, folder: Path) -> None:
    result = dti_keys("create", "acme", "--name", "laptop")
    assert result.exit_code == 0
    credential = result.stdout.removesuffix("\n")
    assert _let_in(folder, credential) == "acme"
    assert "not shown again" in result.stderr
    assert credential not in result.stderr
    assert credential not in dti_keys("list").output
    assert credential not in dti_keys("list", "--json").output


def test_the_store_is_an_option_too(dti_keys: Keys, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    credential = dti_keys("create", "acme", "--store", f"file://{other}").stdout.strip()
    assert _let_in(other, credential) == "acme"
    assert not folder.exists()


def test_keys_are_listed_with_their_state(dti_keys: Keys) -> None:
    created = {
        name: json.loads(dti_keys("create", tenant, "--name", name, "--json").stdout)
        for tenant, name in (("acme", "a"), ("acme", "b"), ("other", "[c]"))
    }
    assert created["a"]["tenant"] == "acme"
    dti_keys("revoke", created["a"]["key"])
    new = json.loads(dti_keys("rotate", created["b"]["key"], "--json").stdout)
    listed = {key["key"]: key for key in json.loads(dti_keys("list", "--json").stdout)["keys"]}
    assert set(listed) == {key["key"] for key in (*created.values(), new)}
    first = listed[created["a"]["key"]]
    assert (first["name"], first["valid"], first["expires"]) == ("a", False, None)
    assert first["revoked"] >= first["created"]
    second = listed[created["b"]["key"]]
    assert (second["valid"], second["revoked"]) == (True, None)
    assert second["expires"] > second["created"]
    assert listed[new["key"]]["name"] == "b"
    only = json.loads(dti_keys("list", "other", "--json").stdout)["keys"]
    assert [key["name"] for key in only] == ["[c]"]
    shown = dti_keys("list").stdout
    for word in ("[c]", "revoked 20", "expires 20", "valid", *listed):
        assert word in shown


def test_a_rotated_key_ends_with_its_grace(dti_keys: Keys, folder: Path) -> None:
    old = json.loads(dti_keys("create", "acme", "--json").stdout)
    result = dti_keys("rotate", old["key"], "--grace", "1h")
    assert f"key {old['key']} stays valid for 1h" in result.stderr
    for credential in (old["credential"], result.stdout.strip()):
        assert _let_in(folder, credential) == "acme"
    dti_keys("rotate", old["key"], "--grace", "0")
    with pytest.raises(UnknownKeyError):
        _let_in(folder, old["credential"])
    assert _let_in(folder, result.stdout.strip()) == "acme"


def test_a_revoked_key_is_refused(dti_keys: Keys, folder: Path) -> None:
    created = json.loads(dti_keys("create", "acme", "--json").stdout)
    assert json.loads(dti_keys("revoke", created["key"], "--json").stdout)["state"] == "revoked"
    with pytest.raises(UnknownKeyError):
        _let_in(folder, created["credential"])
    assert "is revoked" in dti_keys("revoke", created["key"]).stderr


def test_limits_are_shown_and_changed_one_by_one(dti_keys: Keys, folder: Path) -> None:
    credential = dti_keys("create", "acme").stdout.strip()
    before = json.loads(dti_keys("limits", "acme", "--json").stdout)["limits"]
    changed = dti_keys("limits", "acme", "--requests-per-second", "2.5", "--burst", "7", "--json")
    assert json.loads(changed.stdout) == {
        "tenant": "acme",
        "limits": before | {"requests_per_second": 2.5, "burst": 7},
    }
    assert Authenticator(DirectoryStore(folder)).authenticate(credential).limits.burst == 7
    shown = dti_keys("limits", "acme").stdout
    for word in ("requests per second", "2.5", "200,000,000"):
        assert word in shown


def test_the_secret_of_webhooks_is_shown(dti_keys: Keys, folder: Path) -> None:
    dti_keys("create", "acme")
    secret = dti_keys("webhook-secret", "acme").stdout.removesuffix("\n")
    assert secret == read_tenant(DirectoryStore(folder), "acme").webhook_secret
    report = json.loads(dti_keys("webhook-secret", "acme", "--json").stdout)
    assert report == {"tenant": "acme", "webhook_secret": secret}


def test_a_rotated_secret_of_webhooks_signs_beside_the_old_one(
    dti_keys: Keys, folder: Path
) -> None:
    dti_keys("create", "acme")
    old = dti_keys("webhook-secret", "acme").stdout.strip()
    result = dti_keys("rotate-webhook-secret", "acme")
    new = result.stdout.strip()
    assert "by the old one for 24h" in result.stderr
    assert read_tenant(DirectoryStore(folder), "acme").signing_secrets == (new, old)
    report = json.loads(dti_keys("rotate-webhook-secret", "acme", "--grace", "0", "--json").stdout)
    assert read_tenant(DirectoryStore(folder), "acme").signing_secrets == (
        report["webhook_secret"],
        old,
    )


def test_a_key_has_a_scope_and_an_expiry(dti_keys: Keys) -> None:
    created = json.loads(
        dti_keys("create", "acme", "--scope", "read", "--expires", "90d", "--json").stdout
    )
    rotated = json.loads(dti_keys("rotate", created["key"], "--json").stdout)
    listed = {key["key"]: key for key in json.loads(dti_keys("list", "--json").stdout)["keys"]}
    assert {listed[each["key"]]["scope"] for each in (created, rotated)} == {"read"}
    # The successor is valid for as long as the key was at first.
    assert listed[rotated["key"]]["expires"] > listed[created["key"]]["expires"]
    for options in (["--scope", "write"], ["--expires", "0"], ["--expires", "soon"]):
        assert dti_keys("create", "acme", *options).exit_code == 2


def test_rotated_link_keys_sign_new_links_and_verify_old_ones(dti_keys: Keys, folder: Path) -> None:
    store = DirectoryStore(folder)

    def sign() -> str:
        return SignedLinks(store, clock=lambda: 0).sign("/a", 9).rpartition("=")[2]

    before = sign()
    result = dti_keys("rotate-links")
    assert result.exit_code == 0
    assert "the keys of links are rotated" in result.stderr
    assert sign() != before
    SignedLinks(store, clock=lambda: 0).verify("/a", 9, before)
    assert json.loads(dti_keys("rotate-links", "--json").stdout) == {"rotated": "links"}


def test_a_deleted_tenant_has_no_key_that_is_valid(dti_keys: Keys, folder: Path) -> None:
    created = [json.loads(dti_keys("create", "acme", "--json").stdout) for _ in range(2)]
    other = dti_keys("create", "other").stdout.strip()
    assert dti_keys("delete-tenant", "acme").exit_code == 2, "it asks before it deletes"
    assert _let_in(folder, created[0]["credential"]) == "acme"
    for _ in range(2):
        assert dti_keys("delete-tenant", "acme", "--yes").exit_code == 0
    listed = json.loads(dti_keys("list", "acme", "--json").stdout)["keys"]
    assert {key["key"] for key in listed} == {key["key"] for key in created}
    assert all(key["revoked"] for key in listed)
    with pytest.raises(UnknownKeyError):
        _let_in(folder, created[0]["credential"])
    assert _let_in(folder, other) == "other"
    assert "was deleted" in dti_keys("create", "acme").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "A/B"), "is not a tenant's name"),
        (("create", "acme", "--name", "x" * 201), "the key's name has 201 characters"),
        (("create", "acme", "--store", "memory:"), "ends with this command"),
        (("create", "acme", "--store", "gs://x"), "is no kind of store"),
        (("rotate", "x"), "there is no key 'x'"),
        (("revoke", "a" * 16), "there is no key"),
        (("rotate", "a" * 16, "--grace", "1y"), "--grace '1y' is not a time: give 0, 30m"),
        (("rotate", "a" * 16, "--grace", "999999d"), "up to 3650d"),
        (("limits", "acme"), "there is no tenant acme"),
        (("webhook-secret", "acme"), "there is no tenant acme"),
        (("delete-tenant", "acme", "--yes"), "there is no tenant acme"),
    ],
)
def test_invalid_arguments_are_one_message_and_exit_code_2(
    dti_keys: Keys, arguments: tuple[str, ...], says: str
) -> None:
    result = dti_keys(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_limits_that_are_none_change_nothing(dti_keys: Keys) -> None:
    dti_keys("create", "acme")
    before = dti_keys("limits", "acme").stdout
    result = dti_keys("limits", "acme", "--burst", "0", "--open-items", "3")
    assert result.exit_code == 2
    assert "burst is 0" in result.stderr
    assert dti_keys("limits", "acme").stdout == before


def test_a_missing_store_is_an_error_that_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DTI_STORE", raising=False)
    result = CliRunner().invoke(keys.app, ["list"])
    assert result.exit_code == 2
    assert "--store" in result.output


@pytest.mark.parametrize(
    "example",
    [
        *keys.CREATE_EXAMPLES[1:],
        *keys.LIST_EXAMPLES,
        *keys.ROTATE_EXAMPLES,
        *keys.REVOKE_EXAMPLES,
        *keys.LIMITS_EXAMPLES,
        *keys.ROTATE_SECRET_EXAMPLES,
        "dti keys rotate-links",
    ],
)
def test_examples_are_accepted(dti_keys: Keys, example: str) -> None:
    created = json.loads(dti_keys("create", "acme", "--json").stdout)
    line = example.removeprefix("export DTI_API_KEY=$(").removesuffix(")")
    words = shlex.split(line)
    assert words[:2] == ["dti", "keys"]
    known = [created["key"] if word == "ux5dqc7xgf2kq3ab" else word for word in words[2:]]
    assert dti_keys(*known).exit_code == 0


def test_no_command_loads_torch_or_ray(folder: Path) -> None:
    code = (
        "import sys; from services.cli.keys import app\n"
        f"app(['create', 'acme', '--store', {str(folder)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'ray', 'boto3', 'httpx'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
