"""Values that cannot work are refused, with what was given, what is allowed and what to do."""

from typing import Any

import pytest
from chart.rendering import Chart

GPU = {"limits": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 1}}
SDXL = {
    "weights": "sdxl",
    "recipe": "sdxl-release",
    "max_workers": 2,
    "generation": {"max_engines": 2},
}


def group(**fields: Any) -> dict[str, Any]:
    return {"gpu": {"maxReplicas": 2, "resources": GPU} | fields}


def pools(model: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """One model, and one group of GPU nodes in each cluster."""
    return {
        "models": {"miniature": None, "sdxl": SDXL | (model or {})},
        "inference": {"workerGroups": group(**fields)},
        "training": {"workerGroups": group(**fields)},
    }


def test_the_pools_of_these_tests_are_accepted(chart: Chart) -> None:
    chart.render(pools())


UNKNOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a section": ({"inferense": {}}, "inferense", "inference"),
    "a value of a section": ({"api": {"replica": 2}}, "replica", "replicas"),
    "a value of a worker group": (
        {"training": {"workerGroups": {"a": {"maxReplica": 1}}}},
        "maxReplica",
        "maxReplicas",
    ),
    "a field of a model": ({"models": {"miniature": {"paintng": 1}}}, "paintng", "generation"),
    "a field of generation": (
        {"models": {"miniature": {"generation": {"engines": 1}}}},
        "engines",
        "max_engines",
    ),
    "a setting of the API": ({"api": {"settings": {"timeout": 1}}}, "timeout", "upload_timeout_s"),
    "a setting of the supervisor": (
        {"training": {"supervisor": {"settings": {"idle": 1}}}},
        "idle",
        "idle_timeout_s",
    ),
    "a setting of S3": ({"s3": {"settings": {"url": "x"}}}, "url", "endpoint"),
    "a setting that the chart sets": ({"api": {"settings": {"port": 1}}}, "port", "public_url"),
    "a key of the timing": ({"ledger": {"lease": 1}}, "lease", "lease_s"),
}


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_key_is_refused_and_the_allowed_ones_named(
    chart: Chart, case: tuple[dict[str, Any], str, str], helm: str
) -> None:
    values, given, allowed = case
    message = chart.error(values, helm=helm)
    assert f"'{given}'" in message or f'"{given}"' in message
    assert "must be one of" in message
    assert f"'{allowed}'" in message or f'"{allowed}"' in message


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize(
    ("values", "given", "allowed"),
    [
        ({"models": {"BAD_NAME": SDXL}}, "BAD_NAME", "^[a-z0-9][a-z0-9-]{0,62}$"),
        ({"models": {"miniature": {"slots": 0}}}, "slots", "1"),
        ({"models": {"sdxl": {"weights": "sdxl"}}}, "sdxl", "recipe"),
        ({"api": {"replicas": "two"}}, "replicas", "integer"),
        ({"inference": {"upgradeStrategy": "Rolling"}}, "upgradeStrategy", "^(NewCluster|None)$"),
        ({"training": {"workerGroups": {"A100": {}}}}, "A100", "^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$"),
        ({"modelCache": {"claim": {"size": "much"}}}, "size", "^[0-9]+"),
        ({"monitoring": {"rules": {"labels": {"tier": 1}}}}, "tier", "string"),
        ({"image": {"api": {"digest": "sha256:1"}}}, "digest", "sha256:[0-9a-f]{64}"),
    ],
)
def test_a_wrong_value_is_refused_by_the_schema(
    chart: Chart, values: dict[str, Any], given: str, allowed: str, helm: str
) -> None:
    message = chart.error(values, helm=helm)
    assert given in message
    assert allowed in message


TWO = {"miniature": None, "a": SDXL}
SHARED = {"inference": {"workerGroups": group()}, "training": {"sharedCluster": True}}
SHARED_MODEL = SDXL | {"max_workers": 1, "generation": {"min_engines": 2, "max_engines": 2}}

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no store": ({"store": ""}, ["store is empty", "s3://BUCKET/PREFIX"]),
    "a store in memory": ({"store": "memory:"}, ["memory:", "s3://BUCKET/PREFIX"]),
    "GPUs that no group of workers has": (
        pools({"gpus": 2, "generation": {"gpus": 1, "max_engines": 2}}),
        ["models.sdxl", "gpus: 2", "no node of `training`", "gpu (cpus: 8, gpus: 1", "Add a group"],
    ),
    "GPUs that no group of engines has": (
        pools({"generation": {"gpus": 4}}),
        ["gpus: 4", "no node of `inference`", "inference.workerGroups"],
    ),
    "cores that no node has": (pools({"cpus": 9}), ["cpus: 9", "no node of `training`"]),
    "labels that no group has": (
        pools(
            {"labels": {"ray.io/accelerator-type": "H100"}},
            labels={"ray.io/accelerator-type": "L4"},
        ),
        ['{"ray.io/accelerator-type":"H100"}', '{"ray.io/accelerator-type":"L4"}'],
    ),
    "more workers than the groups hold": (
        pools({"max_workers": 5}),
        ["models.sdxl.max_workers is 5", "at most 2", "raise maxReplicas"],
    ),
    "more workers than the groups hold, by default": (
        pools() | {"models": {"sdxl": {"weights": "sdxl", "recipe": "sdxl-release"}}},
        ["models.sdxl.max_workers is 8 (the default)", "at most 2"],
    ),
    "more engines than the groups hold": (
        pools({"generation": {"max_engines": 3}}),
        ["models.sdxl.generation.max_engines is 3", "at most 2", "or less"],
    ),
    "more engines at least than the groups hold": (
        pools({"generation": {"max_engines": 1, "min_engines": 3}}),
        ["models.sdxl.generation.min_engines is 3", "at most 2"],
    ),
    "an engine on a head that is out of the Service": (
        {"inference": {"serveFromHead": False}},
        ["one engine needs (gpus: 0, cpus: 0)", "serveFromHead is false", "inference.workerGroups"],
    ),
    "engines that always run and do not fit at once": (
        pools() | {"models": TWO | {"b": SDXL | {"generation": {"min_engines": 2}}}},
        [
            "what always runs (min_engines, min_workers) does not fit at once",
            "1 engine of a (gpus: 1, cpus: 1), 2 engines of b (gpus: 1, cpus: 1) need 3 GPUs",
            "`inference` that can run them (gpu) have 2",
            "inference.workerGroups, or lower min_engines",
        ],
    ),
    "workers that always run and do not fit at once": (
        pools() | {"models": {name: SDXL | {"cpus": 6, "min_workers": 2} for name in "ab"}},
        ["2 workers of a", "2 workers of b", "need 24 cores", "`training`", "have 16"],
    ),
    "engines and workers that do not fit at once in a shared cluster": (
        SHARED | {"models": {"a": SHARED_MODEL | {"min_workers": 1}, "miniature": None}},
        ["2 engines of a", "1 worker of a", "need 3 GPUs", "have 2"],
    ),
    "engines that leave no room for a worker in a shared cluster": (
        SHARED | {"models": {"a": SHARED_MODEL, "miniature": None}},
        ["models.a: the engines that always run leave no room for a worker", "lower min_engines"],
    ),
    "groups of training in a shared cluster": (
        pools() | {"training": {"sharedCluster": True, "workerGroups": group()}},
        ["training.workerGroups (gpu) would make no pods", "put them under inference.workerGroups"],
    ),
    "a queue of training in a shared cluster": (
        {"training": {"sharedCluster": True, "kueue": {"enabled": True, "queueName": "q"}}},
        ["training.kueue would queue nothing", "put it under inference.kueue"],
    ),
    "no engine, and the head out of the Service": (
        pools({"generation": {"min_engines": 0, "max_engines": 2}})
        | {"inference": {"serveFromHead": False, "workerGroups": group()}},
        ["min_engines is 0", "serveFromHead is false", "Set min_engines to 1"],
    ),
    "an Ingress without host": (
        {"api": {"ingress": {"enabled": True}}},
        ["api.ingress.enabled is true without a host", "set api.ingress.host"],
    ),
    "an HTTPRoute without Gateway": (
        {"api": {"httpRoute": {"enabled": True}}},
        ["without a Gateway", "api.httpRoute.parentRefs"],
    ),
    "more replicas at least than at most": (
        {"api": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
        ["minReplicas is 5", "maxReplicas, which is 2"],
    ),
    "a name that is too long": (
        {"fullnameOverride": "a" * 38},
        ["has 38 characters, and 37 are allowed", "47", "53", "set fullnameOverride"],
    ),
    "a name that begins with a digit": (
        {"fullnameOverride": "1dti"},
        ['"1dti" is not allowed', "a letter first"],
    ),
    "a claim and a path of the node": (
        {"modelCache": {"claim": {"enabled": True}, "nodePath": "/models"}},
        ['nodePath "/models"', "only one place", "Give one of them"],
    ),
    "a claim of two kinds": (
        {"modelCache": {"claim": {"enabled": True}, "existingClaim": "mine"}},
        ['existingClaim "mine"', "only one place"],
    ),
    "a download without a claim": (
        {"modelCache": {"fetch": {"enabled": True}}},
        ["modelCache.fetch.enabled is true without a claim", "modelCache.claim.enabled"],
    ),
    "Kueue with scaling that is not elastic": (
        pools()
        | {"training": {"workerGroups": group(), "kueue": {"enabled": True, "queueName": "q"}}},
        ["training.kueue.elastic is false", "ElasticJobsViaWorkloadSlices"],
    ),
    "Kueue without a queue": (
        {"training": {"kueue": {"enabled": True}}},
        ["training.kueue.enabled is true without a queue", "training.kueue.queueName"],
    ),
    "a group called head": (
        {"training": {"workerGroups": {"head": {}}}},
        ["training.workerGroups.head", "Give another one"],
    ),
    "a group with more pods at least than at most": (
        {"training": {"workerGroups": {"a": {"minReplicas": 3, "maxReplicas": 2}}}},
        ["training.workerGroups.a: minReplicas is 3", "maxReplicas, which is 2"],
    ),
    "labels among the parameters of ray start": (
        {"training": {"workerGroups": {"a": {"rayStartParams": {"labels": "a=b"}}}}},
        ["rayStartParams.labels of training a is not allowed", "labels go into `labels`"],
    ),
    "an idle timeout without scaling": (
        {
            "training": {
                "autoscaling": {"enabled": False},
                "workerGroups": {"a": {"idleTimeoutSeconds": 5}},
            }
        },
        ["idleTimeoutSeconds has no meaning", "leave it out"],
    ),
    "scaling without an account for the head": (
        pools() | {"serviceAccount": {"create": False}},
        ["serviceAccount.create is false", "serviceAccount.headName"],
    ),
    "Redis without an address": (
        {"redis": {"enabled": True}},
        ['redis.address is ""', "HOST:PORT"],
    ),
    "a recipe that does not exist": (
        {"models": {"miniature": {"recipe": "minature"}}},
        ['models.miniature.recipe is "minature"', "miniature-fast", "give one of them"],
    ),
    "a model with the name of a pool": (
        {"models": {"generate-x": {"weights": "w", "recipe": "miniature", "gpus": 0}}},
        ["models.generate-x cannot be a model's name", "does not begin with"],
    ),
    "no model": ({"models": {"miniature": None}}, ["models is empty", "name at least one"]),
    "a label of all objects that the chart sets": (
        {"commonLabels": {"helm.sh/chart": "mine"}},
        ["commonLabels has helm.sh/chart", "leave it out"],
    ),
    **{
        f"a label of monitoring.{name} that the chart sets": (
            {"monitoring": {name: {"enabled": True, "labels": {f"app.kubernetes.io/{key}": "x"}}}},
            [f"monitoring.{name}.labels has app.kubernetes.io/{key}", "leave it out"],
        )
        for name, key in (
            ("podMonitor", "name"),
            ("serviceMonitor", "instance"),
            ("rules", "component"),
            ("dashboards", "managed-by"),
        )
    },
    "an annotation of pods that the chart sets": (
        {"api": {"podAnnotations": {"checksum/models": "mine"}}},
        ["api.podAnnotations has checksum/models", "leave it out"],
    ),
    "a label of pods that the chart sets": (
        {"allPods": {"podLabels": {"app.kubernetes.io/name": "mine"}}},
        ["allPods.podLabels has app.kubernetes.io/name", "nameOverride"],
    ),
    "a label of a group that the chart sets": (
        pools(podLabels={"app.kubernetes.io/component": "mine"}),
        ["training.workerGroups.gpu.podLabels has app.kubernetes.io/component", "leave it out"],
    ),
    "a shared cluster that does not exist": (
        {"inference": {"enabled": False}, "training": {"sharedCluster": True}},
        ["training.sharedCluster is true and inference.enabled is false"],
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_these_are_refused(chart: Chart, case: tuple[dict[str, Any], list[str]]) -> None:
    values, parts = case
    message = chart.error(values)
    assert "the values of the chart cannot work" in message
    for part in parts:
        assert part in message


def test_everything_that_is_wrong_is_said_at_once(chart: Chart) -> None:
    message = chart.error({"store": "", "api": {"ingress": {"enabled": True}}})
    assert "store is empty" in message
    assert "without a host" in message


def test_helm_3_says_the_same(chart: Chart) -> None:
    values = pools({"gpus": 2, "max_workers": 5})
    for helm in ("helm", "helm3"):
        assert "gpus: 2" in chart.error(values, helm=helm)


def test_a_cluster_without_kuberay_is_refused(chart: Chart) -> None:
    message = chart.error(apis=())
    assert "the cluster has no `ray.io/v1`" in message
    assert "install the KubeRay operator" in message


def test_the_chart_renders_without_a_cluster_when_told_to(chart: Chart) -> None:
    chart.render({"kuberay": {"required": False}}, apis=())


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_a_parent_chart_may_have_global_values(chart: Chart, helm: str) -> None:
    chart.render({"global": {"anything": {"at": "all"}}}, helm=helm)


FITTING: dict[str, dict[str, Any]] = {
    "fractions of a GPU": pools({"gpus": 0.5, "cpus": 1, "max_workers": 4}),
    "a label of several": pools(
        {"labels": {"ray.io/accelerator-type": "in(L4, A10G)"}},
        labels={"ray.io/accelerator-type": "L4"},
    ),
    "any label but one": pools(
        {"labels": {"ray.io/accelerator-type": "!T4"}}, labels={"ray.io/accelerator-type": "L4"}
    ),
    "none of several labels": pools({"labels": {"ray.io/accelerator-type": "!in(T4,P4)"}}),
    "spot nodes": pools({"labels": {"ray.io/market-type": "spot"}}, spot=True),
    "a slice of a GPU": pools(
        resources={"limits": {"cpu": 8, "memory": "8Gi", "nvidia.com/mig-1g.10gb": 1}}
    ),
    "engines on other nodes than workers": pools(
        {"labels": {"a": "x"}, "generation": {"max_engines": 2, "labels": {}}}, labels={"a": "x"}
    ),
    "two models whose engines always run": pools()
    | {"models": TWO | {"b": SDXL | {"min_workers": 2}}},
    "models that always run on nodes of their own": {
        "models": {
            "a": SDXL | {"labels": {"a": "x"}, "generation": {"min_engines": 2, "max_engines": 2}},
            "miniature": None,
            "b": SDXL | {"labels": {"a": "y"}, "generation": {"min_engines": 2, "max_engines": 2}},
        },
        "inference": {
            "workerGroups": {
                name: {"maxReplicas": 2, "resources": GPU, "labels": {"a": name}} for name in "xy"
            }
        },
        "training": {"enabled": False},
    },
    "an engine and a worker in a shared cluster": SHARED
    | {"models": {"a": SDXL | {"max_workers": 1}, "miniature": None}},
    "cores in thousandths": pools(
        {"cpus": 4}, resources={"limits": {"cpu": "3500m", "memory": "8Gi", "nvidia.com/gpu": 1}}
    ),
}


@pytest.mark.parametrize("values", FITTING.values(), ids=FITTING.keys())
def test_models_that_fit_their_nodes_are_accepted(chart: Chart, values: dict[str, Any]) -> None:
    chart.render(values)
