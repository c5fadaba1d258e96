"""Writes tokens into a store as the results of a job, where an engine finds them."""

import hashlib
from collections.abc import Iterable

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.text.tokens import LearnedToken
from services.ledger.ids import Ids, token_id
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import ResultRecord, pack

TENANT = "benchmark"
_ORIGIN = ImportedOrigin(format_name="benchmark", pooling="eos", files={})


def store_tokens(ledger: Ledger, tokens: Iterable[LearnedToken], fingerprint: str) -> list[str]:
    """Store the tokens and return their ids; `fingerprint` is that of their model."""
    job = Ids().job()
    keys = JobKeys(TENANT, job)
    token_ids: list[str] = []
    for index, token in enumerate(tokens):
        artifact = Artifact.of(token, model="x", fingerprint=fingerprint, origin=_ORIGIN)
        payload = artifact.to_bytes()
        digest = hashlib.sha256(payload).hexdigest()
        record = ResultRecord(nonce=str(index), status="succeeded", attempt=1, sha256=digest)
        ledger.store.put(keys.result(ItemRef(0, index)), pack(record, payload))
        token_ids.append(token_id(job, 0, index))
    return token_ids
