"""The values of the Helm chart `helm/dti`: names, types, defaults and descriptions.

This package is the one source of `values.yaml`, `values.schema.json`, `README.md` and
`files/defaults.json` of the chart. `python -m helm.values` writes them; a test fails if they are
stale. The settings of the processes come from `services.settings`, so a new setting is one line
there and nothing here.
"""
