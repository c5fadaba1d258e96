"""The sections on the store, secrets and the model cache."""

from pydantic import Field

from helm.values.base import Name, Quantity, Resources, Section, resources, settings_of
from services.storage.settings import S3Settings

S3SettingsValues = settings_of("S3SettingsValues", S3Settings.model_fields, "bucket", "prefix")


class S3(Section):
    """Access to an S3 store. Credentials come from a Secret, or from the service account."""

    settings: S3SettingsValues = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=S3SettingsValues(), description="settings `DTI_S3_...` of all processes"
    )
    existing_secret: Name = Field(
        default="",
        description="Secret with credentials; empty: those of the service account (IRSA, Workload "
        "Identity) or of the node",
    )
    access_key_id_key: str = Field(
        default="AWS_ACCESS_KEY_ID", description="key of the access key's id in that Secret"
    )
    secret_access_key_key: str = Field(
        default="AWS_SECRET_ACCESS_KEY", description="key of the secret access key in that Secret"
    )
    session_token_key: str = Field(
        default="", description="key of the session token in that Secret; empty: there is none"
    )


class StoreCheck(Section):
    """A Job before each install and upgrade that checks the store with `dti store check`."""

    enabled: bool = Field(default=True, description="check the store")
    active_deadline_seconds: int = Field(
        default=300, ge=1, description="time after which the check fails"
    )
    resources: Resources = resources("50m", "256Mi")


class EngineSecret(Section):
    """The secret that requests to engines carry. The chart makes one and keeps it on upgrades."""

    existing_secret: Name = Field(
        default="",
        description="Secret to use instead. Argo CD and `helm template` cannot read the cluster "
        "and would make another secret each time: give one there",
    )
    key: str = Field(default="engine-secret", min_length=1, description="key in that Secret")


class HuggingFace(Section):
    """Access to models on the Hugging Face hub."""

    existing_secret: Name = Field(
        default="", description="Secret with a token; empty: only public models can be loaded"
    )
    key: str = Field(default="token", min_length=1, description="key in that Secret")
    offline: bool = Field(
        default=False, description="never ask the hub: the model cache has all weights"
    )


class CacheClaim(Section):
    """A PersistentVolumeClaim that the chart makes, and keeps when it is uninstalled."""

    enabled: bool = Field(default=False, description="make a claim")
    size: Quantity = Field(default="100Gi", description="size of the volume")
    storage_class_name: Name = Field(
        default="", description="StorageClass; empty: the cluster's default"
    )
    access_modes: list[str] = Field(
        default=["ReadWriteMany"],
        description="ReadWriteMany if more than one node mounts it",
    )
    annotations: dict[str, str] = Field(default={}, description="annotations of the claim")


class CacheFetch(Section):
    """A Job that downloads the weights of all models into the claim (`dti models fetch`).

    Weights of scorers are not among them: the first worker downloads those.
    """

    enabled: bool = Field(default=False, description="run the Job")
    resources: Resources = resources("500m", "4Gi")


class ModelCache(Section):
    """The folder of model weights, `/models` in Ray's pods.

    Without a claim or path, each pod downloads into its own `emptyDir`.
    """

    claim: CacheClaim = CacheClaim()
    existing_claim: Name = Field(default="", description="claim that exists already")
    node_path: str = Field(
        default="",
        pattern=r"^(/.+)?$",
        description="folder of the nodes, which exists and which user 10001 may write to. It is a "
        "hostPath, which Pod Security `restricted` and `baseline` refuse",
    )
    size_limit: Quantity = Field(
        default="50Gi", description="limit of the `emptyDir`, without a claim or path"
    )
    fetch: CacheFetch = CacheFetch()


class Redis(Section):
    """A Redis for the state of Ray's heads (GCS fault tolerance).

    Without it, a head that dies restarts its cluster. The store keeps all jobs either way.
    """

    enabled: bool = Field(default=False, description="keep the state of heads in Redis")
    address: str = Field(default="", description="HOST:PORT of the Redis")
    existing_secret: Name = Field(
        default="", description="Secret with the password; empty: no password"
    )
    key: str = Field(default="password", min_length=1, description="key in that Secret")


class ServiceAccount(Section):
    """The service accounts: NAME for all pods, and NAME-head for Ray heads that scale.

    Only the heads that scale get a token.
    """

    create: bool = Field(default=True, description="make the service accounts")
    name: Name = Field(default="", description="name for all pods; empty: the full name")
    head_name: Name = Field(
        default="", description="name for heads that scale; empty: the full name and `-head`"
    )
    annotations: dict[str, str] = Field(
        default={}, description="annotations, such as the role of IRSA or Workload Identity"
    )
