#!/usr/bin/env bash
# run_image.sh OUTPUT [RUN-OPTION...]
#
# Runs the whole service in one container of the `ray` image, with its data on S3: trains two
# subjects of the miniature as one job, generates an image of the first, and saves both tokens and
# the image to the folder OUTPUT. The container has no root user, a read-only root and no
# capabilities; it is removed at the end, and the data stays in the store.
#
# Further arguments are options of `docker run`: --network=host for an S3 server on this machine.
#
# Environment:
#   DTI_STORE          the store, such as s3://BUCKET/PREFIX (required)
#   DTI_S3_*, AWS_*    how to reach it, and the credentials
#   ENGINE             docker or podman (default: the first that is installed)
#   IMAGE              the image (default: dti-ray)
#   TIMEOUT_S          seconds that the service may take to start (default: 360)
#
# Example:
#   docker build --target ray --tag dti-ray .
#   DTI_STORE=s3://my-bucket/try AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... deploy/run_image.sh out
set -euo pipefail

usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }
fail() { echo "run_image.sh: $*" >&2; exit 2; }

case ${1:-} in
  -h | --help) usage; exit ;;
  "" | -*) usage >&2; exit 2 ;;
esac
output=$1
shift
[ -n "${DTI_STORE:-}" ] || fail "DTI_STORE is not set: give the store, such as DTI_STORE=s3://BUCKET/PREFIX"
engine=${ENGINE:-$(command -v docker || command -v podman || true)}
[ -n "$engine" ] || fail "neither docker nor podman is installed: install one, or name its command in ENGINE"
image=${IMAGE:-dti-ray}
name=dti-run-image-$$

# Only the names are arguments: the values, such as credentials, do not stand in the list of processes.
variables=()
while read -r variable; do
  variables+=(--env "$variable")
done < <(compgen -e | grep -E '^(DTI_STORE|DTI_S3_|AWS_)')

in_container() { "$engine" exec "$name" "$@"; }
stop() {
  echo "stopping" >&2
  "$engine" stop --time 120 "$name" >/dev/null || true
  "$engine" rm --force "$name" >/dev/null || true
}

echo "starting dti serve in $image on $DTI_STORE" >&2
trap stop EXIT
# Ray, and the compilers of kernels, write to /tmp and run what they write there.
"$engine" run --detach --name "$name" \
  --read-only --tmpfs /tmp:rw,exec,mode=1777 --shm-size 1g \
  --user 10001:10001 --cap-drop ALL --security-opt no-new-privileges \
  "${variables[@]}" "$@" "$image" dti serve --port 0 >/dev/null

# `dti serve` notes the address and a key, for the commands below, when it is ready.
deadline=$((SECONDS + ${TIMEOUT_S:-360}))
until in_container test -e /tmp/.config/dti/client.json 2>/dev/null; do
  if [ "$("$engine" inspect --format '{{.State.Running}}' "$name")" != true ] || ((SECONDS > deadline)); then
    "$engine" logs "$name" >&2
    echo "run_image.sh: dti serve is not ready; its output is above" >&2
    exit 1
  fi
  sleep 1
done
echo "ready after $SECONDS s" >&2

# Two subjects of the miniature's world, as bundles of images; prints the name of the first.
subject=$(in_container python -c '
import json
from pathlib import Path
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects

subjects = held_out_subjects("demo")[:2]
for subject in subjects:
    folder = Path("/tmp/subjects") / subject.name
    draw_subject(subject, folder)
    (folder / "bundle.json").write_text(json.dumps({"initializer": subject.class_word}))
print(subjects[0].name)
')
in_container dti submit /tmp/subjects --wait --again --output /tmp/out >&2
server=$(in_container python -c 'from services.client.config import find_server; print(find_server().server)')
in_container dti generate "a photo of a {} on a beach" --token "$subject" --server "$server" --output /tmp/out >&2

mkdir -p "$output"
in_container tar --create --directory /tmp/out . | tar --extract --directory "$output"
echo "trained and generated within $SECONDS s; the files are in $output:" >&2
ls "$output"
