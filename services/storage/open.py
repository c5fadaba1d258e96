"""Opens a store by its URL."""

from services.storage.directory import DirectoryStore
from services.storage.interface import Store
from services.storage.memory import MemoryStore
from services.storage.settings import DirectorySettings, MemorySettings, store_settings


def open_store(url: str, **s3_defaults: float) -> Store:
    """Return the store at `s3://bucket/prefix`, `file:///folder`, a path, or `memory:`.

    `memory:` is a new store each time. `probe_record.ensure_probed` tells whether a store can be
    relied on.

    Raises:
        SettingsError: The URL or a variable is malformed.
        StoreRefusedError: The file system of a directory lacks what the store needs.
    """
    settings = store_settings(url)
    if isinstance(settings, MemorySettings):
        return MemoryStore()
    if isinstance(settings, DirectorySettings):
        return DirectoryStore(settings.root)
    # Imported late: boto3 takes a while, and most processes of a laptop never need it.
    from services.storage.s3 import S3Store

    return S3Store(settings.with_defaults(**s3_defaults))
