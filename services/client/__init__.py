"""The service as those see it who call it over HTTP. Loads no torch, and nothing of the service's
own rooms but what it calls its errors: what is here works against any version of the API.

Importing this package loads nothing; import the modules you need.
"""
