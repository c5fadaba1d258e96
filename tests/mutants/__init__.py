"""Mutants of the source: each lacks one safeguard, and the named tests must fail.

    make mutants                                      # all of them
    make mutants MUTANTS="engine-tenant upload-digest"

Mutants of the ledger's protocol that need faults to show are in `chaos.simulation.mutants`, and are
not repeated here.
"""
