"""The root of the chart's values."""

from typing import Any

from pydantic import Field

from dti_engine import __version__ as _version
from helm.values.base import AllPods, FreeMap, Image, Resources, Section, resources
from helm.values.clusters import Inference, RayToken, Training
from helm.values.http import Api, Dispatcher
from helm.values.monitoring import Monitoring
from helm.values.store import (
    S3,
    EngineSecret,
    HuggingFace,
    ModelCache,
    Redis,
    ServiceAccount,
    StoreCheck,
)
from services.contracts.jobs import Label
from services.contracts.models import ServedModel
from services.settings import LedgerSettings

VERSION = _version
"""The version of the code, which is the chart's appVersion."""


class Images(Section):
    """The two images of the service."""

    api: Image = Field(
        default=Image(repository="dti-api"),
        description="image of the API, the dispatcher and the jobs: it has no torch and no Ray",
    )
    ray: Image = Field(
        default=Image(repository="dti-ray"), description="image of all pods of Ray clusters"
    )


class KubeRay(Section):
    """The KubeRay operator, which the cluster must have; the chart does not install it."""

    required: bool = Field(
        default=True,
        description="fail if the cluster has no `ray.io/v1`; false: render offline",
    )


class Peers(Section):
    """The pods that may connect."""

    operator: list[FreeMap] = Field(
        default=[
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
            }
        ],
        description="the KubeRay operator, which deploys engines through the head",
    )
    prometheus: list[FreeMap] = Field(
        default=[
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        ],
        description="Prometheus, which reaches the ports of metrics and no others",
    )
    api_clients: list[FreeMap] = Field(default=[], description="callers of the API; empty: all")


class NetworkPolicy(Section):
    """NetworkPolicies: pods reach only what they need, and are reached only by who needs them."""

    enabled: bool = Field(default=False, description="make NetworkPolicies")
    peers: Peers = Peers()
    egress: list[FreeMap] = Field(
        default=[{"ports": [{"port": 443}, {"port": 6443}]}],
        description="rules for the store, the Hugging Face hub, webhooks and the Kubernetes API, "
        "for all pods; DNS, the engines and Ray's own ports are always allowed",
    )


class HelmTest(Section):
    """The pod of `helm test`, which learns a drawn subject and generates an image of it."""

    model: str = Field(
        default="miniature",
        description="model that it uses; if it is not served, `helm test` "
        "only asks whether the API is ready",
    )
    timeout_seconds: int = Field(default=600, ge=1, description="time that it may take")
    resources: Resources = resources("50m", "256Mi")


class Values(Section):
    """The values of the chart."""

    name_override: str = Field(default="", description="takes the place of the chart's name")
    fullname_override: str = Field(
        default="", description="full name, with which the names of all objects begin"
    )
    common_labels: dict[str, str] = Field(default={}, description="labels of all objects")
    common_annotations: dict[str, str] = Field(default={}, description="annotations of all objects")
    image: Images = Images()
    image_pull_secrets: list[FreeMap] = Field(
        default=[], description="Secrets for pulling images, as `- name: NAME`"
    )
    service_account: ServiceAccount = ServiceAccount()
    store: str = Field(
        default="",
        description="URL of the object store, `s3://BUCKET/PREFIX`; required. All state is there",
    )
    s3: S3 = S3()
    store_check: StoreCheck = StoreCheck()
    models: dict[Label, ServedModel] = Field(
        default={
            "miniature": ServedModel.model_validate(
                {
                    "weights": "miniature",
                    "recipe": "miniature",
                    "slots": 4,
                    "gpus": 0,
                    "max_workers": 1,
                    "generation": {"max_engines": 1},
                }
            )
        },
        description="models that the service trains for and generates with, by name. An entry "
        "`miniature: null` removes the default; no entry removes a model of an earlier values file",
    )
    ledger: LedgerSettings = LedgerSettings()
    all_pods: AllPods = AllPods()
    api: Api = Api()
    dispatcher: Dispatcher = Dispatcher()
    inference: Inference = Inference()
    training: Training = Training()
    ray_version: str = Field(
        default="2.60.0",
        pattern=r"^\d+\.\d+\.\d+$",
        description="version of Ray in the image, which KubeRay must know",
    )
    ray_token: RayToken = RayToken()
    redis: Redis = Redis()
    engine_secret: EngineSecret = EngineSecret()
    hugging_face: HuggingFace = HuggingFace()
    model_cache: ModelCache = ModelCache()
    network_policy: NetworkPolicy = NetworkPolicy()
    monitoring: Monitoring = Monitoring()
    helm_test: HelmTest = HelmTest()
    extra_objects: list[FreeMap | str] = Field(
        default=[], description="more objects, as maps or as templates in text"
    )
    kuberay: KubeRay = KubeRay()
    global_: dict[str, Any] = Field(
        default={}, alias="global", description="values of a parent chart; this chart ignores them"
    )
