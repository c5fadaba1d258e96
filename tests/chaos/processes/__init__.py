"""Real processes on a real store, killed and stopped at any moment; then what the ledger promises.

    python -m chaos.processes URL --rounds 100 --seed 1    with this folder's parent on PYTHONPATH

A round has a tenant, jobs and processes of its own: workers, supervisors, clients and an observer.
Each writes what it does to a log, a line before and a line after. A killer sends SIGKILL, SIGSTOP
and SIGTERM, and starts others in their places. Then the faults stop, all jobs come to their ends,
and the logs are held against what lies in the store (`chaos.processes.checker`).
"""
