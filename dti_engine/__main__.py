"""`python -m dti_engine`: the `dti` program where its script is not on the path."""

from dti_engine.cli.app import main

main()
