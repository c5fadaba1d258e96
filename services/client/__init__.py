"""The client of the service, over HTTP. Loads no torch, and nothing of the other packages of
`services` but their errors, so that it works with any version of the API.

Importing this package loads nothing; import its modules.
"""
