"""A store by its URL."""

import os
from collections.abc import Mapping

from services.settings import DirectorySettings, MemorySettings, store_settings
from services.storage.directory import DirectoryStore
from services.storage.interface import Store
from services.storage.memory import MemoryStore


def open_store(url: str, environment: Mapping[str, str] = os.environ) -> Store:
    """The store at `s3://bucket/prefix`, `file:///folder` or a path; `memory:` is a new one each
    time. `probe.probe` says whether it can be relied on.

    Raises: SettingsError; StoreRefusedError if a directory's file system cannot do it.
    """
    settings = store_settings(url, environment)
    if isinstance(settings, MemorySettings):
        return MemoryStore()
    if isinstance(settings, DirectorySettings):
        return DirectoryStore(settings.root)
    # boto3 takes a while to import, and not everyone needs it.
    from services.storage.s3 import S3Store

    return S3Store(settings)
