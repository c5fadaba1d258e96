"""Settings of processes: what flags, variables and secret files come to, and what is refused."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.errors import SettingsError
from services.settings import (
    PROCESSES,
    ApiProcessSettings,
    DispatcherProcessSettings,
    EngineSecret,
    LedgerSettings,
    SupervisorProcessSettings,
    WorkerProcessSettings,
)


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DTI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DTI_STORE", "./store")


def test_a_flag_overrides_the_variable_and_that_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SupervisorProcessSettings.read().lease_s == 60
    monkeypatch.setenv("DTI_LEASE_S", "30")
    monkeypatch.setenv("DTI_POLL_INTERVAL_S", "")
    settings = SupervisorProcessSettings.read()
    assert (settings.lease_s, settings.poll_interval_s) == (30, 1)
    settings = SupervisorProcessSettings.read(
        ["--lease-s", "20", "--allow-private-webhooks", "--models", "models.json"]
    )
    assert (settings.store, settings.lease_s) == ("./store", 20)
    assert settings.allow_private_webhooks
    assert settings.models == Path("models.json")


def test_a_secret_is_read_from_a_file_unless_a_variable_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dti_engine_secret").write_text("hush\n")
    monkeypatch.setenv("DTI_SECRETS_DIR", str(tmp_path))
    assert EngineSecret.read().engine_secret == "hush"
    assert ApiProcessSettings.read().engine_secret == "hush"
    monkeypatch.setenv("DTI_ENGINE_SECRET", "louder")
    assert EngineSecret.read().engine_secret == "louder"
    assert "louder" not in repr(ApiProcessSettings.read())


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DTI_LEASE", "30")
    with pytest.raises(SettingsError, match=r"no setting is called DTI_LEASE: .*DTI_LEASE_S"):
        WorkerProcessSettings.read()


def test_variables_of_others_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("DTI_MAX_BODY_BYTES", "DTI_RAY_ADDRESS"),  # of other processes
        *("DTI_SERVER", "DTI_API_KEY", "DTI_S3_ENDPOINT"),
    ):
        monkeypatch.setenv(name, "http://10.0.0.1")
    assert WorkerProcessSettings.read().lease_s == 60


def test_variables_that_kubernetes_sets_beside_a_service_are_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "DTI_API_SERVICE_HOST": "10.0.0.1",
        "DTI_API_SERVICE_PORT": "80",
        "DTI_API_SERVICE_PORT_HTTP": "80",
        "DTI_API_PORT": "tcp://10.0.0.1:80",
        "DTI_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "DTI_API_PORT_80_TCP_PROTO": "tcp",
        "DTI_API_PORT_80_TCP_PORT": "80",
        "DTI_API_PORT_80_TCP_ADDR": "10.0.0.1",
        "DTI_DNS_PORT": "udp://10.0.0.2:53",
    }.items():
        monkeypatch.setenv(name, value)
    assert WorkerProcessSettings.read().lease_s == 60


@pytest.mark.parametrize("name", ["DTI_METRIC_PORT", "DTI_API_PORT", "DTI_API_PORT_80_TCP_PORT"])
def test_a_misspelled_port_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "8002")
    with pytest.raises(SettingsError, match=f"no setting is called {name}"):
        WorkerProcessSettings.read()


def test_a_file_is_no_folder_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("hush")
    monkeypatch.setenv("DTI_SECRETS_DIR", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=r"DTI_SECRETS_DIR is '.*secret', a file: give"):
        WorkerProcessSettings.read()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DTI_LEASE_S", "-1", "--lease-s or DTI_LEASE_S is '-1'.*change or unset it"),
        ("DTI_LEASE_S", "nan", "finite"),
        ("DTI_ENGINES_URL", "ftp://host", "--engines-url or DTI_ENGINES_URL"),
        ("DTI_ENGINE_SECRET", "", "DTI_ENGINE_SECRET is not given.*DTI_ENGINES_URL is not given"),
    ],
)
def test_the_error_of_an_invalid_value_names_flag_and_variable(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says):
        DispatcherProcessSettings.read()


def test_an_unknown_flag_is_an_error_of_the_command_line() -> None:
    with pytest.raises(SystemExit) as caught:
        WorkerProcessSettings.read(["--lease", "30"])
    assert caught.value.code == 2


def test_durations_and_sizes_say_their_units() -> None:
    names = {name for process in PROCESSES for name in process.model_fields}
    of_time = ("timeout", "interval", "ttl", "delay", "lease", "after", "affinity", "stream")
    assert {name for name in names if name.endswith(of_time)} == set()


def test_settings_do_not_change() -> None:
    settings = LedgerSettings()
    with pytest.raises(ValidationError):
        settings.lease_s = 1


def test_the_metrics_of_the_api_cannot_have_the_port_of_the_api() -> None:
    with pytest.raises(SettingsError, match=r"metrics_port is 8000.*give another port"):
        ApiProcessSettings.read(["--metrics-port=8000"])
    assert ApiProcessSettings.read(["--metrics-port=8001"]).metrics_port == 8001
    assert ApiProcessSettings.read().metrics_port is None
