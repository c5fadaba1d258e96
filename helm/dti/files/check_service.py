"""The pod of `helm test`: ask the API whether it is ready, learn a subject, generate an image.

    python check_service.py URL [MODEL]

With a model, it draws a subject of the miniature's world, submits it, waits for its token and
generates one image with it, all by the commands that users have. It makes a tenant of its own in
the store and deletes it in the end.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

TENANT = "helm-test"


def dti(*arguments: str) -> str:
    """Return what a command prints. Its errors appear in the log of the pod."""
    print("+ dti", *arguments, flush=True)
    return subprocess.run(
        ["dti", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def wait_until_ready(url: str) -> None:
    """Return when the API answers that it is ready; try for two minutes."""
    for _ in range(60):
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=10)
        except urllib.error.URLError as error:
            print(f"{url}/readyz: {error}", flush=True)
            time.sleep(2)
        else:
            return
    sys.exit(f"{url} is not ready after two minutes: look at the API's log")


def learn_and_generate(url: str, model: str, folder: Path) -> None:
    """Learn a drawn subject and generate an image of it."""
    from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects

    subject = held_out_subjects("demo")[0]
    photos = folder / subject.name
    draw_subject(subject, photos)
    dti(
        *("submit", str(photos), "--initializer", subject.class_word),
        *("--model", model, "--server", url, "--wait", "--output", str(folder / "tokens")),
    )
    prompt = f"a photo of a {subject.placeholder}"
    token = f"{subject.placeholder}={subject.name}"
    images = folder / "images"
    dti(
        *("generate", prompt, "--token", token, "--model", model),
        *("--server", url, "--output", str(images)),
    )
    (image,) = images.glob("*.png")
    print(f"generated {image.name}, {image.stat().st_size} bytes", flush=True)


def main() -> None:
    """Check the service at the URL that is the first argument."""
    url = sys.argv[1]
    wait_until_ready(url)
    if len(sys.argv) == 2:
        print("ready; the model of the test is not served, so nothing is learned")
        return
    os.environ["DTI_API_KEY"] = dti("keys", "create", TENANT)
    try:
        with TemporaryDirectory() as folder:
            learn_and_generate(url, sys.argv[2], Path(folder))
    finally:
        dti("keys", "delete-tenant", TENANT, "--yes")


if __name__ == "__main__":
    main()
