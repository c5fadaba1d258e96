"""Mutants of the sandbox, and of what is checked of archives."""

from mutants.mutant import Mutant

_CONFINEMENT = "dti_engine/images/bundles/confinement.py"
_SANDBOX = "dti_engine/images/bundles/sandbox.py"
_UNPACKING = "dti_engine/images/bundles/unpacking.py"
_MEMBERS = "dti_engine/images/bundles/members.py"
_READER = "dti_engine/images/bundles/reader.py"
_TEST_SANDBOX = "tests/dti_engine/images/bundles/test_sandbox.py"
_TEST_ARCHIVES = "tests/dti_engine/images/bundles/test_archives.py"
_TEST_ZIP = f"{_TEST_ARCHIVES}::test_a_hostile_zip_is_rejected_by_name"
_TEST_TAR = f"{_TEST_ARCHIVES}::test_a_hostile_tar_is_rejected_by_name"

SANDBOX = (
    Mutant(
        "sandbox-inherits-the-environment",
        _SANDBOX,
        "            env=_environment(),\n",
        "",
        (f"{_TEST_SANDBOX}::test_the_process_inherits_neither_the_environment_nor_descriptors",),
    ),
    Mutant(
        "sandbox-without-limits",
        _CONFINEMENT,
        "resource.setrlimit(limit, (value, value))",
        "pass",
        (f"{_TEST_SANDBOX}::test_the_process_inherits_neither_the_environment_nor_descriptors",),
    ),
    Mutant(
        "sandbox-without-filter",
        _CONFINEMENT,
        "    if not _filter_system_calls():\n",
        "    if False:\n",
        (f"{_TEST_SANDBOX}::test_a_confined_process_can_only_compute",),
    ),
    Mutant(
        "sandbox-answers-at-any-length",
        _SANDBOX,
        'size > (max_bytes if outcome == "done" else _MAX_TEXT_BYTES)',
        "size < 0",
        (
            "tests/dti_engine/images/bundles/test_decoder.py::"
            "test_replies_of_a_compromised_decoder_are_checked",
        ),
    ),
    Mutant(
        "findings-of-any-length",
        _MEMBERS,
        'return text if len(text) <= max_characters else f"{text[: max_characters - 3]}..."',
        "return text",
        (f"{_TEST_SANDBOX}::test_a_finding_is_short_whatever_it_quotes",),
    ),
    Mutant(
        "extended-headers-of-any-size",
        _UNPACKING,
        "            if left < 0:\n",
        "            if False:\n",
        (f"{_TEST_TAR}[giant pax header]",),
    ),
    Mutant(
        "table-of-contents-of-any-size",
        _UNPACKING,
        "if directory_bytes > limits.max_directory_bytes or is_zip64:",
        "if False:",
        (f"{_TEST_ZIP}[giant table of contents]",),
    ),
    Mutant(
        "names-lead-out",
        _MEMBERS,
        'if ".." in parts:',
        "if False:",
        (f"{_TEST_ZIP}[traversal]",),
    ),
    Mutant(
        "unpacked-bytes-not-counted",
        _READER,
        "if contents.num_bytes > limits.max_unpacked_bytes:",
        "if False:",
        (f"{_TEST_ZIP}[many small bombs]",),
    ),
    Mutant(
        "upload-named-in-the-temporary-folder",
        "services/training/loader.py",
        'tempfile.TemporaryFile(prefix="dti-")',
        'tempfile.NamedTemporaryFile(prefix="dti-")',
        (
            "tests/services/training/test_loader.py::"
            "test_an_upload_has_no_name_in_the_temporary_folder",
        ),
    ),
)
