"""Mutants of the readers of token files, and of what is exported to other programs."""

from mutants.mutant import Mutant

_IMPORTERS = "dti_engine/artifacts/importers.py"
_TENSOR_FILES = "dti_engine/artifacts/tensor_files.py"
_PROGRAMS = "dti_engine/artifacts/programs.py"
_TEST_IMPORTERS = "tests/dti_engine/artifacts/test_importers.py"
_TEST_EXPORTERS = "tests/dti_engine/artifacts/test_exporters.py"

TOKEN_FILES = (
    Mutant(
        "archive-that-fills-the-memory",
        _TENSOR_FILES,
        "if not is_plain or len(entries) > _MAX_ENTRIES:",
        "if len(entries) > _MAX_ENTRIES:",
        (f"{_TEST_IMPORTERS}::test_an_archive_that_would_fill_the_memory_is_not_unpacked",),
    ),
    Mutant(
        "pickle-that-takes-for-ever",
        _TENSOR_FILES,
        "num_tuples > _MAX_TUPLES",
        "num_tuples < 0",
        # With 25 tuples the mutant takes a second, and with 60 it never ends.
        (f"{_TEST_IMPORTERS}::test_a_pickle_that_would_take_for_ever_is_not_followed[25]",),
    ),
    Mutant(
        "errors-of-libraries-get-out",
        _TENSOR_FILES,
        "    except Exception as error:\n",
        "    except OSError as error:\n",
        (f"{_TEST_IMPORTERS}::test_no_damaged_file_lets_an_error_of_a_library_out",),
    ),
    Mutant(
        "vectors-of-zeros-are-tokens",
        _IMPORTERS,
        'if not 0 < norm < float("inf"):',
        "if False:",
        (f"{_TEST_IMPORTERS}::test_an_invalid_token_is_rejected_by_name",),
    ),
    Mutant(
        "any-number-of-vectors",
        _IMPORTERS,
        "if count > _MAX_VECTORS or width > _MAX_WIDTH:",
        "if width > _MAX_WIDTH:",
        (f"{_TEST_IMPORTERS}::test_an_invalid_token_is_rejected_by_name",),
    ),
    Mutant(
        "our-own-token-as-another-programs",
        _IMPORTERS,
        "    artifact = _read_own(contents)\n",
        "    artifact = None\n",
        (f"{_TEST_IMPORTERS}::test_our_own_token_is_imported_as_itself",),
    ),
    Mutant(
        "names-that-no-prompt-can-say",
        _PROGRAMS,
        "if program.sayable is None or program.sayable.fullmatch(path.stem):",
        "if True:",
        (
            f"{_TEST_EXPORTERS}::test_a_name_that_a_prompt_cannot_say_is_refused_with_one_that_it_can",
        ),
    ),
    Mutant(
        "tokens-of-any-width",
        _PROGRAMS,
        "    if takes(format_name, widths):\n",
        "    if True:\n",
        (f"{_TEST_EXPORTERS}::test_a_width_that_no_model_of_the_program_has_is_refused",),
    ),
)
