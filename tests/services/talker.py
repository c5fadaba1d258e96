"""Logs as a process of the service does, for `test_logs.py`.

python talker.py SCENE json|plain|auto
"""

import logging
import sys
import threading
import warnings

from services import logs

KEY = "dti_abcdefghijklmn23_" + "s3cr3t" * 8
"""Shaped as API keys are."""

PRESIGNED = "https://s3/b/k?X-Amz-Credential=AK%2F1&X-Amz-Signature=5e1f&X-Amz-Expires=60"

log = logs.logger("talker")


def _log_lines() -> None:
    log.info("pool is 100% full", slots=4, loss=0.5)
    with logs.bound(request="req-1", job="job-1"), logs.bound(item=7, worker=None):
        log.warning("item is slow", steps={"done": 1})
    log.debug("nobody asked")
    log.info("again", time="mine", level="mine")


def _hostile() -> None:
    log.info("line\nbreak \x1b[31m and \u2028 and \ud800", alias="\r\nlevel=error \u202e")
    log.info("no number", loss=float("nan"))
    log.info("no text", keys={(1, 2): 3})


def _secret() -> None:
    log.info(f"a key {KEY} in text", field=KEY, nested={"a": [f"Bearer {KEY}"]})
    log.info("presigned", url=PRESIGNED, webhook="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw/+==")
    log.info(
        "fields", prompt="a secret dog", negative_prompt="cat", client_secret="hush", captions=2
    )
    log.info("kept", metric="dti_http_request_seconds_bucket", variable="DTI_S3_ENDPOINT")
    logging.getLogger("httpx").info("HTTP Request: GET %s", PRESIGNED)
    logging.getLogger("botocore").warning("slow %s", PRESIGNED)
    try:
        raise ValueError(f"no such key: {KEY}")
    except ValueError:
        log.exception("it failed")


def _exceptions() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer\nline") from error
    except RuntimeError:
        log.exception("it failed", pool="sdxl")
    warnings.warn("this is old", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise SystemError("the end")


def _threads() -> None:
    """Ids are of the thread that bound them, until they are handed on."""

    def work(environment: dict[str, str]) -> None:
        log.info("not handed on")
        with logs.bound(**environment):
            log.info("handed on")

    with logs.bound(request="req-1"):
        thread = threading.Thread(target=work, args=(logs.ids(),))
        thread.start()
        thread.join()
        log.info("still here")
    log.info("gone")


def main(scene: str, form: str) -> None:
    logs.configure("talker", {"json": True, "plain": False, "auto": None}[form])
    {
        "said": _log_lines,
        "hostile": _hostile,
        "secret": _secret,
        "exceptions": _exceptions,
        "threads": _threads,
    }[scene]()


if __name__ == "__main__":
    main(*sys.argv[1:])
