"""Mutants of the probe of stores and of the gate before a store."""

from mutants.mutant import Mutant

_PROBE = "services/storage/probe.py"
_RECORD = "services/storage/probe_record.py"
_GATE = "services/storage/gate.py"
_MONITOR = "services/storage/monitor.py"
_TEST_PROBE = "tests/services/storage/test_probe.py"
_TEST_RECORD = "tests/services/storage/test_probe_record.py"
_TEST_GATE = "tests/services/storage/test_gate.py"

PROBED = (
    Mutant(
        "races-only-for-new-objects",
        _PROBE,
        "was_deleted = number % 2 == 1",
        "was_deleted = False",
        (f"{_TEST_PROBE}::test_a_broken_store_is_refused_by_name",),
    ),
    Mutant(
        "record-of-any-version",
        _RECORD,
        "if record.version != __version__ or",
        "if",
        (f"{_TEST_RECORD}::test_a_record_of_another_version_is_not_believed",),
    ),
    Mutant(
        "record-of-any-age",
        _RECORD,
        "stored.head.age > MAX_AGE",
        "False",
        (f"{_TEST_RECORD}::test_a_record_is_believed_for_a_week",),
    ),
    Mutant(
        "record-of-a-copy",
        _RECORD,
        "is_copy = abs(stored.head.last_modified - record.time) > _COPY_TOLERANCE",
        "is_copy = False",
        (f"{_TEST_RECORD}::test_a_copied_record_is_not_believed",),
    ),
    Mutant(
        "record-before-versioning",
        _RECORD,
        "return record if store.retention() == record.findings.retention else None",
        "return record",
        (f"{_TEST_RECORD}::test_a_record_is_not_believed_once_versioning_is_switched_on",),
    ),
    Mutant(
        "silent-store-leaves-the-gate-open",
        _GATE,
        "return self._is_shut or (began is not None and self._clock() - began > _PING_LIMIT_S)",
        "return self._is_shut",
        (f"{_TEST_GATE}::test_a_silent_store_shuts_the_gate_until_it_answers",),
    ),
    Mutant(
        "any-failed-call-shuts-the-gate",
        _GATE,
        "        self._doubt.set()\n",
        "        self._doubt.set()\n        self._is_shut = True\n",
        (f"{_TEST_GATE}::test_one_call_that_fails_shuts_nothing_and_raises_a_doubt",),
    ),
    Mutant(
        "refusal-is-not-told",
        _MONITOR,
        "            self._on_refused()\n",
        "",
        (f"{_TEST_GATE}::test_a_refused_store_is_told_once_and_never_opened",),
    ),
)
