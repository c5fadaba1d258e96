"""Fault injection for the whole service on a real store.

    python -m chaos.service URL --rounds 50 --seed 1     with this folder's parent on PYTHONPATH

`chaos.processes` does this to processes of the ledger alone. Here it is `services.local`: an API, a
supervisor, a Ray node and training workers on it, with a client that uses HTTP alone. Before the
rounds, reference tokens are trained without faults. Then each round has a tenant and a job of its
own, and one or two faults while its items run. An observer records what appears in the store, and
the history is checked (`chaos.service.checker`, `chaos.checker`).
"""
