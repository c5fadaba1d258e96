"""The variables that the chart renders are settings of the processes that get them."""

from collections.abc import Iterator

import pytest
from chart.rendering import Chart, Object, containers, environment
from chart.test_profiles import Profile, profiles

from services.settings import (
    ApiProcessSettings,
    DispatcherProcessSettings,
    EngineSecret,
    ProcessSettings,
    SupervisorProcessSettings,
)
from services.storage.settings import S3Settings

PROCESSES: dict[str, type[ProcessSettings]] = {
    "api": ApiProcessSettings,
    "dispatcher": DispatcherProcessSettings,
    "supervisor": SupervisorProcessSettings,
}
S3 = {f"DTI_S3_{name.upper()}" for name in S3Settings.model_fields}


def _variables(container: Object) -> set[str]:
    return {name for name in environment(container) if name.startswith("DTI_")} - S3


def _processes(chart: Chart, profile: Profile) -> Iterator[Object]:
    for pod in chart.render(None, *profile).pods().values():
        yield from containers(pod)


@profiles
def test_every_variable_is_a_setting_of_its_process(chart: Chart, profile: Profile) -> None:
    for container in _processes(chart, profile):
        if (process := PROCESSES.get(container["name"])) is not None:
            known = {f"DTI_{name.upper()}" for name in process.model_fields}
            assert _variables(container) <= known, container["name"]


@profiles
def test_every_required_setting_of_a_process_is_given(chart: Chart, profile: Profile) -> None:
    for container in _processes(chart, profile):
        if (process := PROCESSES.get(container["name"])) is not None:
            required = {
                f"DTI_{name.upper()}"
                for name, field in process.model_fields.items()
                if field.is_required()
            }
            assert required <= _variables(container), container["name"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_reads_the_variables_that_it_is_given(
    chart: Chart, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        each
        for pod in chart.render().pods().values()
        for each in containers(pod)
        if each["name"] == name
    ]
    assert len(found) == 1
    for variable, value in environment(found[0]).items():
        monkeypatch.setenv(variable, value if isinstance(value, str) else "from-a-secret")
    settings = PROCESSES[name].read()
    assert settings.store == "s3://bucket/dti"
    assert str(settings.models) == "/etc/dti/models.json"


def test_engines_get_the_secret_that_they_read(chart: Chart) -> None:
    (secret,) = EngineSecret.model_fields
    head = chart.render().clusters()["inference"]["headGroupSpec"]["template"]["spec"]
    assert f"DTI_{secret.upper()}" in environment(head["containers"][0])
