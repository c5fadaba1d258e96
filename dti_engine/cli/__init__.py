"""The commands of `dti`, one file per group. `dti_engine.cli.app` mounts them.

Nothing here loads torch before a command runs, so that help is instant.
"""
