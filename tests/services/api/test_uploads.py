"""Files are stored under their own digest, and no other bytes are."""

import base64
import hashlib
import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from services.errors import UnknownUploadError
from services.ledger import uploads
from services.ledger.recovery import Recovery
from services.storage.directory import DirectoryStore


def test_a_missing_file_is_uploaded_once(site: Any) -> None:
    body = b"image"
    sha256 = hashlib.sha256(body).hexdigest()
    files = [{"sha256": sha256, "size": len(body)}]
    answers = site.post("/v1/uploads", {"files": files}).json()["files"]
    way = {"method": "PUT", "url": f"/v1/uploads/{sha256}", "fields": {}}
    assert answers == [{"sha256": sha256, "present": False, "upload": way}]
    put = site.ask("PUT", way["url"], content=body)
    assert (put.status_code, put.json()["size"]) == (201, 5)
    answers = site.post("/v1/uploads", {"files": files}).json()["files"]
    assert answers == [{"sha256": sha256, "present": True, "upload": None}]
    assert site.get(f"/v1/uploads/{sha256}").json() == put.json()
    assert uploads.read(site.store, "acme", sha256, max_bytes=len(body)) == body


@pytest.mark.parametrize("kind", ["moto"])
def test_a_presigned_form_uploads_a_file(store: Any, new_site: Any) -> None:
    site = new_site(store)
    body = b"image"
    sha256 = hashlib.sha256(body).hexdigest()
    files = {"files": [{"sha256": sha256, "size": len(body)}]}
    [answers] = site.post("/v1/uploads", files).json()["files"]
    form = answers["upload"]
    assert form["method"] == "POST"
    sent = httpx.post(form["url"], data=form["fields"], files={"file": body})
    assert sent.status_code in (200, 201, 204)
    [answers] = site.post("/v1/uploads", files).json()["files"]
    assert answers["present"]
    assert uploads.read(site.store, "acme", sha256, max_bytes=len(body)) == body


@pytest.mark.parametrize("kind", ["moto", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_form_binds_the_content_and_ends_with_its_upload(
    store: Any, new_site: Any, kind: str
) -> None:
    site = new_site(store)
    body = b"photo"
    sha256 = hashlib.sha256(body).hexdigest()
    files = {"files": [{"sha256": sha256, "size": len(body)}]}
    form = site.post("/v1/uploads", files).json()["files"][0]["upload"]
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert {"x-amz-checksum-sha256": checksum} in policy["conditions"]
    assert ["content-length-range", 5, 5] in policy["conditions"]

    def send(content: bytes = body, fields: Mapping[str, str] = {}) -> int:
        form_fields = form["fields"] | dict(fields)
        return httpx.post(form["url"], data=form_fields, files={"file": content}).status_code

    assert send() in (200, 201, 204)
    if kind == "s3":  # moto does not look at the policy
        assert send(fields={"x-amz-checksum-sha256": base64.b64encode(b"0" * 32).decode()}) == 403
        assert send(b"longer photo") == 400
    assert site.get(f"/v1/uploads/{sha256}").status_code == 200
    assert site.ask("DELETE", f"/v1/uploads/{sha256}").status_code == 204
    # The form is still valid for the bucket; what it brings does not count, and is removed.
    assert send() in (200, 201, 204)
    assert site.get(f"/v1/uploads/{sha256}").status_code == 404
    assert site.get("/v1/uploads").json()["uploads"] == []
    with pytest.raises(UnknownUploadError):
        uploads.read(store, "acme", sha256, max_bytes=100)
    Recovery(site.ledger).sweep()
    assert not site.ledger.exists(uploads.key("acme", sha256))
    # A new form is a new upload.
    form = site.post("/v1/uploads", files).json()["files"][0]["upload"]
    assert send() in (200, 201, 204)
    assert uploads.read(store, "acme", sha256, max_bytes=100) == body


def test_a_deleted_upload_may_be_sent_again(site: Any) -> None:
    sha256 = site.upload(b"photo")
    assert site.ask("DELETE", f"/v1/uploads/{sha256}").status_code == 204
    assert site.upload(b"photo") == sha256
    Recovery(site.ledger).sweep()
    assert site.get(f"/v1/uploads/{sha256}").status_code == 200


def test_a_file_of_another_size_does_not_count_as_present(site: Any) -> None:
    sha256 = hashlib.sha256(b"image").hexdigest()
    site.store.put(uploads.key("acme", sha256), b"pict")
    [answers] = site.post("/v1/uploads", {"files": [{"sha256": sha256, "size": 7}]}).json()["files"]
    assert not answers["present"]


def test_bytes_with_another_digest_are_refused_and_not_stored(site: Any) -> None:
    sha256 = hashlib.sha256(b"image").hexdigest()
    answer = site.ask("PUT", f"/v1/uploads/{sha256}", content=b"another")
    assert answer.status_code == 422
    assert "have the digest" in answer.json()["detail"]
    assert site.get(f"/v1/uploads/{sha256}").status_code == 404
    assert site.ask("PUT", f"/v1/uploads/{sha256}", content=b"").status_code == 422


def test_a_large_upload_is_refused_before_it_is_read(site: Any) -> None:
    site.limit("acme", upload_bytes=10)
    body = b"x" * 11
    path = f"/v1/uploads/{hashlib.sha256(body).hexdigest()}"
    read: list[int] = []

    def pieces() -> Any:
        for _ in range(11):
            read.append(1)
            yield b"x"

    announced = site.ask("PUT", path, content=pieces(), headers={"Content-Length": "11"})
    unannounced = site.ask("PUT", path, content=iter([b"x" * 6, b"x" * 5]))
    answers = site.post(
        "/v1/uploads", {"files": [{"sha256": hashlib.sha256(body).hexdigest(), "size": 11}]}
    )
    for answer in (announced, unannounced, answers):
        assert answer.status_code == 413
        assert "10" in answer.json()["detail"]
    assert site.get(path).status_code == 404
    body = b"x" * 10
    path = f"/v1/uploads/{hashlib.sha256(body).hexdigest()}"
    assert site.ask("PUT", path, content=body).status_code == 201


def test_a_deleted_upload_is_gone_and_audited(site: Any) -> None:
    sha256 = site.upload(b"image")
    assert site.ask("DELETE", f"/v1/uploads/{sha256}").status_code == 204
    assert site.get(f"/v1/uploads/{sha256}").status_code == 404
    assert site.ask("DELETE", f"/v1/uploads/{sha256}").status_code == 404
    [entry] = site.get("/v1/audit").json()["entries"]
    assert (entry["action"], entry["what"]) == ("upload.delete", sha256)
    assert entry["by"] in site.keys["acme"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"files": []}, "#/files"),
        ({"files": [{"sha256": "x", "size": 1}]}, "#/files/0/sha256"),
        ({"files": [{"sha256": "0" * 64, "size": 0}]}, "#/files/0/size"),
        ({"files": [{"sha256": "0" * 64, "size": 1, "name": "a"}]}, "#/files/0/name"),
        ({"files": [{"sha256": "0" * 64, "size": 1}] * 1001}, "#/files"),
    ],
)
def test_an_invalid_plan_of_uploads_names_its_errors(site: Any, body: Any, pointer: str) -> None:
    answer = site.post("/v1/uploads", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_an_upload_needs_no_writable_folder(
    site: Any, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_folder() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("services.api.uploads.TemporaryFile", no_folder)
    sha256 = hashlib.sha256(b"photo").hexdigest()
    answer = site.ask("PUT", f"/v1/uploads/{sha256}", content=b"photo")
    assert answer.status_code == 201, answer.text


def test_an_upload_without_space_is_answered_so_and_leaves_nothing(
    new_site: Any, tmp_path: Path
) -> None:
    site = new_site(DirectoryStore(tmp_path / "store"))
    body = bytes(2**21)
    path = f"/v1/uploads/{hashlib.sha256(body).hexdigest()}"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        answer = site.ask("PUT", path, content=body)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.status_code == 503
    assert "no space left" in answer.json()["detail"]
    assert site.get(path).status_code == 404
    assert list((tmp_path / "store/temporary").iterdir()) == []
    assert site.ask("PUT", path, content=body).status_code == 201
