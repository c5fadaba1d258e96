"""The discovery of the service and of the API key."""

from pathlib import Path

import pytest

from dti_engine.errors import OutputError
from services.client.config import ServerConfig, config_file, find_server, read_config, write_config
from services.errors import SettingsError

HERE = ServerConfig("http://127.0.0.1:8000", "dti_1_secret")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a folder for configuration."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_a_saved_configuration_is_found_and_readable_by_its_owner_alone(
    home: dict[str, str],
) -> None:
    path = write_config(HERE, home)
    assert path == config_file(home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_config(home) == find_server(environment=home) == HERE
    assert [each.name for each in path.parent.iterdir()] == ["client.json"]


def test_saving_replaces_an_older_file_of_any_mode(home: dict[str, str]) -> None:
    path = write_config(ServerConfig("http://old:1", "old"), home)
    path.chmod(0o644)
    write_config(HERE, home)
    assert read_config(home) == HERE
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_beside_other_programs_where_nothing_else_is_configured() -> None:
    assert config_file({}) == Path.home() / ".config/dti/client.json"
    assert config_file({"XDG_CONFIG_HOME": "relative"}) == config_file({})


def test_options_override_the_environment_which_overrides_the_file(
    home: dict[str, str],
) -> None:
    write_config(HERE, home)
    environment = home | {"DTI_SERVER": "https://dti.example/", "DTI_API_KEY": "dti_2_other"}
    assert find_server(environment=environment) == ServerConfig(
        "https://dti.example", "dti_2_other"
    )
    explicit = find_server("http://third:3", "dti_3_third", environment)
    assert explicit == ServerConfig("http://third:3", "dti_3_third")
    assert find_server(key="dti_3_third", environment=home) == ServerConfig(
        HERE.server, "dti_3_third"
    )


def test_a_saved_key_is_sent_to_its_own_server_alone(home: dict[str, str]) -> None:
    write_config(HERE, home)
    assert find_server(f"{HERE.server}/", environment=home) == HERE
    with pytest.raises(SettingsError, match=r"no API key for https://dti\.example"):
        find_server("https://dti.example", environment=home)


def test_without_a_server_the_error_says_what_to_do(home: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"dti serve.*DTI_SERVER"):
        find_server(environment=home)


@pytest.mark.parametrize(
    "server",
    ["here", "ftp://here", "http://", "http://here:x", "http://a@b", "http://a?b", "http://a\nb"],
)
def test_a_server_is_a_url(server: str) -> None:
    with pytest.raises(SettingsError, match="is not a server"):
        find_server(server, "key", {})


def test_a_key_is_one_word() -> None:
    with pytest.raises(SettingsError, match="copy the whole key") as refused:
        find_server("http://here", "two words", {})
    assert "two words" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", '{"server": "http://a"}', '{"key": "dti_1_secret"}'])
def test_a_damaged_file_is_refused_without_being_shown(home: dict[str, str], text: str) -> None:
    write_config(HERE, home).write_text(text)
    with pytest.raises(SettingsError, match="no server and key") as refused:
        read_config(home)
    assert "secret" not in str(refused.value)


def test_unknown_fields_of_the_file_are_ignored(home: dict[str, str]) -> None:
    write_config(HERE, home).write_text('{"server": "http://a", "key": "k", "more": 1}')
    assert read_config(home) == ServerConfig("http://a", "k")


def test_a_file_that_cannot_be_read_is_an_error(home: dict[str, str]) -> None:
    config_file(home).mkdir(parents=True)
    with pytest.raises(SettingsError, match="Is a directory"):
        read_config(home)
    with pytest.raises(OutputError, match="Is a directory"):
        write_config(HERE, home)
    assert [each.name for each in config_file(home).parent.iterdir()] == ["client.json"]


def test_a_key_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(HERE)


def test_a_user_without_a_home_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and passwd entry
    assert read_config({}) is None
    with pytest.raises(SettingsError, match="which server"):
        find_server(environment={})
    with pytest.raises(OutputError, match="set HOME or XDG_CONFIG_HOME"):
        write_config(ServerConfig("http://localhost:8000", "key"), {})
