"""The whole service on a real store, its processes killed in the middle of jobs; then the checks.

    python -m chaos.service URL --rounds 50 --seed 1     with this folder's parent on PYTHONPATH

`kills` does this to processes that know the ledger alone. Here it is `services.local.Service`: an
API, a supervisor, a Ray node and training workers on it, which clients know by HTTP. Before the
rounds, subjects are trained undisturbed. Then each round has a tenant and a job of its own, and a
kill or two while its items run. A journal of the store is kept all the while, and held against what
was promised (`chaos.service.checker`, `chaos.processes.checker`).
"""
