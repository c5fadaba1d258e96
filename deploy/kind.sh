#!/usr/bin/env bash
# kind.sh up [HELM-OPTION...]
# kind.sh test
# kind.sh down
#
# Runs the whole service in a kind cluster on this machine, without GPUs: a cluster, both images, the
# KubeRay operator, an S3 server in memory, and the chart with deploy/values/kind-cpu.yaml.
#
#   up     makes what is missing and installs or upgrades the chart; a second call after a change of
#          the code brings the new images. Further arguments are options of `helm upgrade`.
#   test   learns a drawn subject in the cluster and generates an image of it (`helm test`)
#   down   deletes the cluster, with everything in it
#
# It needs docker, kind, kubectl and helm (3.18 or newer), 4 cores, 12 GiB of memory, 15 GiB of disk, and
# access to registries (Docker Hub, PyPI, the index of torch, KubeRay's charts).
#
# Environment:
#   CLUSTER          name of the kind cluster (default: dti)
#   NAMESPACE        namespace of the service (default: dti)
#   KUBERAY_VERSION  release of the KubeRay operator (default: 1.7.0)
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=${CLUSTER:-dti}
namespace=${NAMESPACE:-dti}
kuberay_version=${KUBERAY_VERSION:-1.7.0}
api_image=localhost/dti-api:dev
ray_image=localhost/dti-ray:dev

usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "deploy/kind.sh"; }
say() { echo "kind.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

# Every command names the cluster, so that no other cluster of this machine is ever changed.
kube() { kubectl --context "kind-$cluster" --namespace "$namespace" "$@"; }

make_cluster() {
  if ! kind get clusters | grep -qx "$cluster"; then
    say "making the cluster $cluster"
    kind create cluster --name "$cluster" --wait 5m
  fi
}

build_images() {
  say "building the images"
  docker build --target api --tag "$api_image" .
  # The CPU build of torch: the default one brings gigabytes of CUDA libraries.
  docker build --target ray --tag "$ray_image" \
    --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .
  kind load docker-image --name "$cluster" "$api_image" "$ray_image"
}

install_operator() {
  say "installing the KubeRay operator $kuberay_version"
  helm --kube-context "kind-$cluster" upgrade --install kuberay-operator kuberay-operator \
    --repo https://ray-project.github.io/kuberay-helm/ --version "$kuberay_version" \
    --namespace kuberay-system --create-namespace --wait --timeout 10m
}

start_store() {
  say "starting the S3 server"
  kubectl --context "kind-$cluster" create namespace "$namespace" --dry-run=client --output yaml |
    kubectl --context "kind-$cluster" apply --filename -
  kube apply --filename deploy/kind-s3.yaml
  kube rollout status deployment/s3 --timeout 5m
  kube wait job/s3-bucket --for condition=complete --timeout 5m
}

install_chart() {
  say "installing the chart"
  # These values replace no engine, because two Ray clusters do not fit: without it, it is made anew.
  kube delete rayservice/dti-inference --ignore-not-found --timeout 5m
  # The tag of the images stays the same. A new value of this annotation starts their pods anew.
  helm --kube-context "kind-$cluster" upgrade --install dti helm/dti --namespace "$namespace" \
    --values deploy/values/kind-cpu.yaml --set s3.settings.endpoint=http://s3:5000 \
    --set-string "allPods.podAnnotations.build=$(build_id)" --timeout 15m "$@"
  say "waiting for the API, the dispatcher and the engines"
  kube rollout status deployment/dti-api --timeout 10m
  kube rollout status deployment/dti-dispatcher --timeout 10m
  kube wait rayservice/dti-inference --for condition=Ready --timeout 20m
}

build_id() { docker image inspect --format '{{.Id}}' "$api_image" "$ray_image" | sha256sum | cut -c1-12; }

up() {
  make_cluster
  build_images
  install_operator
  start_store
  install_chart "$@"
  cat <<EOF
The service runs. To use it from here:

  kubectl --context kind-$cluster --namespace $namespace port-forward service/dti-api 8000:80 &
  export DTI_SERVER=http://127.0.0.1:8000
  export DTI_API_KEY=\$(kubectl --context kind-$cluster --namespace $namespace exec deployment/dti-api -- dti keys create me)
  dti submit photos/rex --wait && dti generate "a photo of a {} on a beach" --token rex --server \$DTI_SERVER
EOF
}

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed: install it first"
  done
}

case ${1:-} in
  up) need docker kind kubectl helm && up "${@:2}" ;;
  test)
    need helm
    helm --kube-context "kind-$cluster" test dti --namespace "$namespace" --logs --timeout 15m
    ;;
  down) need kind && kind delete cluster --name "$cluster" ;;
  -h | --help) usage ;;
  *) usage >&2 && exit 2 ;;
esac
