"""Types that several sections of the values share: base classes, images and fields of pods."""

from typing import Annotated, Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

FreeMap = dict[str, Any]
"""A part of a Kubernetes object, which the API server checks and this chart does not."""

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")]
"""An amount as Kubernetes writes it, such as `500m` or `16Gi`."""

Name = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$")]
"""The name of a Kubernetes object, or nothing."""

GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$")]
"""The name of a worker group."""


class Section(BaseModel):
    """The base of all sections. Names are in camelCase; unknown ones are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )


class Settings(BaseModel):
    """The base of sections that hold settings of a process under their own names."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def settings_of(name: str, fields: dict[str, FieldInfo], *owned: str) -> type[Settings]:
    """Return a section with the settings of a process, except those that the chart sets itself.

    Raises: KeyError if `owned` has a name that is no setting, so that a renamed setting is noticed.
    """
    kept = dict(fields)
    for setting in owned:
        del kept[setting]
    definitions: Any = {key: (info.annotation, info) for key, info in kept.items()}
    return create_model(name, __base__=Settings, **definitions)


def is_free_map(annotation: Any) -> bool:
    """Return whether a value of this type is a map with names that the user chooses."""
    return get_origin(annotation) is dict


class Image(Section):
    """A container image."""

    repository: str = Field(min_length=1, description="name of the image, with its registry")
    tag: str = Field(default="", description="tag; empty: the chart's appVersion")
    digest: str = Field(
        default="",
        pattern=r"^(sha256:[0-9a-f]{64})?$",
        description="digest, `sha256:...`, which takes the place of the tag",
    )
    pull_policy: str = Field(
        default="IfNotPresent",
        pattern="^(Always|IfNotPresent|Never)$",
        description="Always, IfNotPresent or Never",
    )


class Resources(Section):
    """The resources of a container."""

    requests: dict[str, Quantity | int | float] = Field(
        default={}, description="amounts that the scheduler reserves"
    )
    limits: dict[str, Quantity | int | float] = Field(
        default={}, description="amounts that the container cannot exceed"
    )


def resources(cpu: str, memory: str) -> Resources:
    """Return requests of a processor share and memory, with the memory as limit too."""
    return Resources(requests={"cpu": cpu, "memory": memory}, limits={"memory": memory})


class Pod(Section):
    """The fields that all pods of the chart have."""

    pod_labels: dict[str, str] = Field(default={}, description="labels of the pods")
    pod_annotations: dict[str, str] = Field(default={}, description="annotations of the pods")
    node_selector: dict[str, str] = Field(
        default={}, description="labels that the pods' nodes must have"
    )
    tolerations: list[FreeMap] = Field(default=[], description="taints of nodes that pods tolerate")
    affinity: FreeMap = Field(default={}, description="affinity of the pods")
    topology_spread_constraints: list[FreeMap] = Field(
        default=[], description="how pods are spread over zones or nodes"
    )
    priority_class_name: Name = Field(default="", description="PriorityClass of the pods")
    runtime_class_name: Name = Field(
        default="", description="RuntimeClass of the pods, such as nvidia"
    )
    extra_env: list[FreeMap] = Field(default=[], description="more variables of the containers")
    extra_env_from: list[FreeMap] = Field(
        default=[], description="ConfigMaps and Secrets whose keys become variables"
    )
    extra_volumes: list[FreeMap] = Field(default=[], description="more volumes of the pods")
    extra_volume_mounts: list[FreeMap] = Field(
        default=[], description="more volume mounts of the containers"
    )
    pod_security_context: FreeMap = Field(default={}, description="security context of the pods")
    security_context: FreeMap = Field(default={}, description="security context of the containers")


class AllPods(Pod):
    """Defaults for every pod, those of Ray too; a component's own fields are added to these.

    The defaults pass the Pod Security Standard `restricted`.
    """

    pod_security_context: FreeMap = Field(
        default={
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        description="security context of the pods",
    )
    security_context: FreeMap = Field(
        default={
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        description="security context of the containers",
    )
