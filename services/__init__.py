"""The service around the engine: jobs, storage and processes.

Importing this package loads nothing; import the modules you need.
"""
