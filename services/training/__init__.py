"""Workers that learn subjects: claimed from the ledger, packed into one batch, committed back.

A process is a `worker`; `pool` says how many there should be, `actors` runs them on Ray.
"""
