"""All mutants. One that survives shows a safeguard without a test."""

from mutants.ledger import LEDGER, STORE
from mutants.sandbox import SANDBOX
from mutants.service import API, ENGINE

MUTANTS = (*STORE, *LEDGER, *ENGINE, *API, *SANDBOX)
