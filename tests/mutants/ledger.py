"""Mutants of the directory store and of the ledger."""

from mutants.mutant import Mutant

_DIRECTORY = "services/storage/directory.py"
_VERSIONS = "services/storage/directory_versions.py"
_TEST_DIRECTORY = "tests/services/storage/test_directory.py"
_TEST_CLOCK = "tests/services/storage/test_directory_clock.py"

STORE = (
    Mutant(
        "file-not-synced",
        _DIRECTORY,
        "os.fsync(file.fileno())",
        "pass",
        (f"{_TEST_DIRECTORY}::test_the_bytes_of_a_version_are_on_disk_before_its_name",),
    ),
    Mutant(
        "folder-not-synced",
        _VERSIONS,
        "        sync_folder(folder)\n    trim(folder, number)",
        "        pass\n    trim(folder, number)",
        (f"{_TEST_DIRECTORY}::test_all_names_that_lead_to_a_version_are_on_disk_before_it",),
    ),
    Mutant(
        "version-number-used-twice",
        _VERSIONS,
        "if max(_numbers(folder)) >= number + KEPT:",
        "if False:",
        (f"{_TEST_DIRECTORY}::test_a_writer_that_was_paused_never_wins",),
    ),
    Mutant(
        "overtaken-read-not-noticed",
        _VERSIONS,
        "        _version(version.number, os.fstat(file.fileno()))\n",
        "",
        (f"{_TEST_DIRECTORY}::test_a_reader_that_was_overtaken_reads_again",),
    ),
    Mutant(
        "old-bytes-not-erased",
        _VERSIONS,
        "_erase(folder / _name(old))",
        "pass",
        (f"{_TEST_DIRECTORY}::test_overwritten_and_deleted_objects_leave_no_bytes",),
    ),
    Mutant(
        "erasure-of-killed-process-not-repeated",
        _DIRECTORY,
        "                # The process that deleted it may have been killed before it erased the "
        "bytes.\n                versions.trim(folder, seen.number)",
        "                pass",
        (f"{_TEST_DIRECTORY}::test_deleting_again_removes_bytes_that_a_killed_process_left",),
    ),
    Mutant(
        "ages-by-time-of-day",
        "services/storage/directory_clock.py",
        "return _boottime_ns() + self._offset_ns",
        "return time.time_ns()",
        (f"{_TEST_CLOCK}::test_ages_stay_right_when_the_time_of_day_jumps",),
    ),
    Mutant(
        "time-of-earlier-boot-is-new",
        "services/storage/directory_clock.py",
        "if self._offset_ns is not None and modified_ns > now_ns + _NS_PER_S:",
        "if False:",
        (f"{_TEST_CLOCK}::test_a_time_that_has_not_come_is_that_of_an_earlier_boot",),
    ),
)

_ATTEMPTS = "services/ledger/attempts.py"
_LEASES = "services/ledger/leases.py"
_DELETION = "services/ledger/deletion.py"
_UPLOADS = "services/ledger/uploads.py"
_SUBMISSIONS = "services/ledger/submissions.py"
_TEST_LEASES = "tests/services/ledger/test_leases.py"
_TEST_COMMITS = "tests/services/ledger/test_commits.py"
_TEST_CLAIMS = "tests/services/ledger/test_claims.py"
_TEST_DELETION = "tests/services/ledger/test_deletion.py"
_TEST_RACES = "tests/services/ledger/test_deletion_races.py"
_TEST_UPLOADS = "tests/services/ledger/test_uploads.py"

LEDGER = (
    Mutant(
        "lease-without-rounding",
        _LEASES,
        "timedelta(seconds=record.duration_s) + _ROUNDING",
        "timedelta(seconds=record.duration_s)",
        (f"{_TEST_LEASES}::test_a_lease_holds_a_second_longer_as_stores_round_times",),
    ),
    Mutant(
        "broken-lease-renewed",
        _LEASES,
        'if stored is None or stored[1].state != "held":',
        "if stored is None:",
        (_TEST_LEASES,),
    ),
    Mutant(
        "lost-renewal-not-adopted",
        _LEASES,
        "            self._etag = stored[0].etag\n",
        "            raise LeaseLostError(self.worker)\n",
        (_TEST_LEASES,),
    ),
    Mutant(
        "claims-without-a-fresh-lease",
        "services/ledger/worker.py",
        "            self.lease.is_fresh\n            and len(",
        "            len(",
        (f"{_TEST_LEASES}::test_a_worker_that_has_not_renewed_lately_begins_nothing",),
    ),
    Mutant(
        "attempts-run-on-after-the-lease",
        "services/ledger/worker.py",
        '                attempt.stop_reason = "lost"\n            raise',
        "                pass\n            raise",
        (f"{_TEST_LEASES}::test_all_running_attempts_stop_when_the_lease_is_lost",),
    ),
    Mutant(
        "loser-of-a-commit-believes-it-won",
        _ATTEMPTS,
        "if isinstance(stored, ResultRecord) and _same_commit(stored, ours):",
        "if True:",
        (f"{_TEST_COMMITS}::test_of_one_attempt_the_first_end_stands",),
    ),
    Mutant(
        "repeated-commit-not-recognised",
        _ATTEMPTS,
        "if isinstance(stored, ResultRecord) and _same_commit(stored, ours):",
        "if False:",
        (f"{_TEST_COMMITS}::test_an_end_is_called_again_after_the_store_was_away",),
    ),
    Mutant(
        "failures-off-by-one",
        _ATTEMPTS,
        "failures = count_failures(self.earlier_ends) + 1",
        "failures = count_failures(self.earlier_ends)",
        (f"{_TEST_CLAIMS}::test_failures_up_to_the_most_end_the_item_with_all_reasons_kept",),
    ),
    Mutant(
        "checkpoints-left-after-the-result",
        _ATTEMPTS,
        "removed by a sweep.\n        with suppress(StorageError):\n            "
        "self._checkpoints.remove()",
        "removed by a sweep.",
        (f"{_TEST_CLAIMS}::test_checkpoints_go_when_the_item_ends",),
    ),
    Mutant(
        "deletion-without-tombstones",
        _DELETION,
        "    ledger.gather(lambda item: _bury(ledger, keys.result(item)), sorted(claimed))\n",
        "",
        (f"{_TEST_DELETION}::test_a_running_attempt_cannot_commit_after_the_deletion",),
    ),
    Mutant(
        "deletion-without-command",
        _DELETION,
        "    issue_command(ledger, keys.deletion, by)\n    if pool:",
        "    if pool:",
        (f"{_TEST_DELETION}::test_deletion_stops_running_attempts_and_leaves_nothing",),
    ),
    Mutant(
        "no-second-look-at-a-deleted-tenant",
        _SUBMISSIONS,
        "    if ledger.exists(tenant_deletion_key(tenant)):\n        issue_command",
        "    if False:\n        issue_command",
        (f"{_TEST_RACES}::test_a_tenant_deleted_at_any_moment_of_a_submission_keeps_nothing",),
    ),
    Mutant(
        "idempotency-key-of-another-request",
        _SUBMISSIONS,
        "if stored.digest != digest:",
        "if False:",
        (
            "tests/services/ledger/test_submissions.py::"
            "test_another_request_with_the_same_key_is_a_conflict_that_names_the_job",
        ),
    ),
    Mutant(
        "upload-digest-not-checked-at-read",
        _UPLOADS,
        "    _check_digest(sha256, hashlib.sha256(body).hexdigest(), len(body))\n",
        "",
        (f"{_TEST_UPLOADS}::test_bytes_that_were_changed_under_their_digest_are_never_read",),
    ),
    Mutant(
        "upload-digest-not-checked-at-write",
        _UPLOADS,
        "    _check_digest(sha256, digest.hexdigest(), file.tell())\n",
        "",
        (f"{_TEST_UPLOADS}::test_bytes_of_another_digest_are_not_written",),
    ),
    Mutant(
        "upload-of-any-size-is-read",
        _UPLOADS,
        "if (size := store.head(key(tenant, sha256)).size) > max_bytes:",
        "if (size := store.head(key(tenant, sha256)).size) < 0:",
        (f"{_TEST_UPLOADS}::test_an_upload_is_its_tenants_and_no_larger_than_asked",),
    ),
)
