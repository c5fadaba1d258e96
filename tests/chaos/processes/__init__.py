"""Fault injection for real processes of the ledger, on a real store.

    python -m chaos.processes URL --rounds 100 --seed 1    with this folder's parent on PYTHONPATH

A round has a tenant, jobs and processes of its own: workers, supervisors, clients and an observer.
Each logs an event before and after what it does. The nemesis sends SIGKILL, SIGSTOP and SIGTERM,
and others take the places of dead processes. Then the faults stop, all jobs end, and the history is
checked against the objects in the store (`chaos.checker`).
"""
