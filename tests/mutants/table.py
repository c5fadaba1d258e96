"""All mutants. One that survives shows a safeguard without a test."""

from mutants.ledger import LEDGER, STORE
from mutants.sandbox import SANDBOX
from mutants.service import API, ENGINE
from mutants.store import PROBED
from mutants.token_files import TOKEN_FILES

MUTANTS = (*STORE, *PROBED, *LEDGER, *ENGINE, *API, *SANDBOX, *TOKEN_FILES)
