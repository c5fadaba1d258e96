"""A store by its URL."""

from services.storage.directory import DirectoryStore
from services.storage.interface import Store
from services.storage.memory import MemoryStore
from services.storage.settings import DirectorySettings, MemorySettings, store_settings


def open_store(url: str, **s3_defaults: float) -> Store:
    """The store at `s3://bucket/prefix`, `file:///folder` or a path; `memory:` is a new one each
    time. `probe.probe` says whether it can be relied on.

    Raises: SettingsError; StoreRefusedError if a directory's file system cannot do it.
    """
    settings = store_settings(url)
    if isinstance(settings, MemorySettings):
        return MemoryStore()
    if isinstance(settings, DirectorySettings):
        return DirectoryStore(settings.root)
    # boto3 takes a while to import, and not everyone needs it.
    from services.storage.s3 import S3Store

    return S3Store(settings.with_defaults(**s3_defaults))
