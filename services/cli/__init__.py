"""The commands of `dti` that ask the service, one file per group. `services.cli_app` mounts them.

Each loads what it needs when it is called: no torch, and httpx only where a request is made.
"""
