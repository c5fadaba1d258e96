"""Every error that the service raises on purpose.

ServiceError (DTIError)
|-- SettingsError (ConfigurationError)  a setting or URL is invalid
|-- QuotaError                          the caller would exceed a quota or a rate limit
|-- UnknownUploadError                  there is no upload with this digest
|-- LargeUploadError                    an upload is larger than its use allows
|-- DamagedUploadError                  an upload does not have the announced digest
|-- UnknownKeyError                     a request has no valid API key, or no key has this id
|-- ScopeError                          the scope of an API key does not allow a request
|-- UnknownTenantError                  there is no such tenant
|-- UnsafeUrlError                      a webhook must not be sent to this URL
|-- NoEngineError                       no engine of the model answers now: ask again
|   `-- QueueFullError                  the engine's queue is full
|-- DeadlineExceededError               the result was not ready before the deadline
|-- UnsafeImageError                    a generated image may not be shown
|-- UnknownModelError                   no model has this name
|-- UnknownImageError                   there is no such image, or its link is invalid
|-- UnknownErasureError                 there is no such erasure
|-- LedgerError
|   |-- InvalidIdError (ValueError)     this cannot be the id of a tenant, job, item, ...
|   |-- ConflictError                   the request contradicts an earlier one
|   |-- UnknownJobError                 the tenant has no such job, item or token
|   |-- DeletedError                    the object was deleted for good
|   |-- LeaseLostError                  the lease has expired; others do the work
|   |-- SupersededError                 the item has already ended otherwise
|   `-- DamagedRecordError              an object is not what the ledger writes there
`-- StorageError
    |-- InvalidKeyError (ValueError)    a key, prefix or page size is invalid
    |-- InvalidRangeError (ValueError)  a range is invalid, or outside of the object
    |-- NotFoundError                   there is no object under this key
    |-- PreconditionFailedError         the object has another version: a compare-and-swap lost
    |   `-- AlreadyExistsError          there is an object already, so none was created
    |-- AccessDeniedError               the credentials are missing or not sufficient
    |-- UnavailableError                the store did not answer, nothing changed: retry
    |   |-- StoreFullError              there is no space left, nothing changed: free some
    |   `-- OutcomeUnknownError         the same, but the write may have been applied: read first
    `-- StoreRefusedError               the store lacks a guarantee that the ledger needs

Messages say what was given, what is allowed and what to do. All arguments are positional strings,
so that every error survives pickling between processes.
"""

import errno

from dti_engine.errors import ConfigurationError, DTIError

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ServiceError(DTIError):
    """The base of all errors that the service raises on purpose."""


class SettingsError(ServiceError, ConfigurationError):
    """A setting or URL is malformed, or contradicts another setting."""


class QuotaError(ServiceError):
    """The caller would exceed a quota or a rate limit.

    The second argument is the number of seconds after which to ask again.
    """

    @property
    def retry_after_s(self) -> float:
        """Return the time after which to ask again."""
        return float(self.args[1]) if len(self.args) > 1 else 1.0

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownUploadError(ServiceError):
    """There is no upload with this digest, or it was removed."""


class LargeUploadError(ServiceError):
    """An upload is larger than its use allows, and was not fetched."""


class DamagedUploadError(ServiceError):
    """An upload does not have the digest that it was announced with."""


class UnknownKeyError(ServiceError):
    """A request has no valid API key, or no key has this id."""


class ScopeError(ServiceError):
    """The scope of an API key does not allow the request."""


class UnknownTenantError(ServiceError):
    """There is no such tenant."""


class UnsafeUrlError(ServiceError):
    """A webhook must not be sent to this URL: it is invalid, or leads to a private address."""


class NoEngineError(ServiceError):
    """Raised when no engine of the model answers.

    The second argument is the number of seconds after which to ask again.
    """

    @property
    def retry_after_s(self) -> float:
        """Return the time after which to ask again."""
        return float(self.args[1]) if len(self.args) > 1 else 5.0

    def __str__(self) -> str:
        return str(self.args[0])


class QueueFullError(NoEngineError):
    """The engine's queue is full."""


class DeadlineExceededError(ServiceError):
    """The result was not ready before the deadline."""


class UnsafeImageError(ServiceError):
    """A generated image may not be shown."""


class UnknownModelError(ServiceError):
    """Raised when no served model has the requested name."""


class UnknownImageError(ServiceError):
    """The tenant has no such image, or the link to it is invalid or has expired."""


class UnknownErasureError(ServiceError):
    """The tenant has made no erasure with this id."""


class LedgerError(ServiceError):
    """The base of the ledger's errors."""


class InvalidIdError(LedgerError, ValueError):
    """This cannot be the id of a tenant, job, item, token or worker."""


class ConflictError(LedgerError):
    """The request contradicts an earlier one."""


class UnknownJobError(LedgerError):
    """The tenant has no such job, item or token."""


class DeletedError(LedgerError):
    """The object was deleted for good."""


class LeaseLostError(LedgerError):
    """The lease has expired, and others do the work: the worker must begin a new session."""


class SupersededError(LedgerError):
    """The item has already ended otherwise. Nothing was changed."""


class DamagedRecordError(LedgerError):
    """An object is not what the ledger writes there."""


class StorageError(ServiceError):
    """The base of the stores' errors."""


class InvalidKeyError(StorageError, ValueError):
    """A key, prefix or page size is invalid in every store."""


class InvalidRangeError(StorageError, ValueError):
    """A range is invalid, or begins at or beyond the end of the object."""


class NotFoundError(StorageError):
    """There is no object under this key."""


class PreconditionFailedError(StorageError):
    """The object has another version than the expected one: a compare-and-swap lost."""


class AlreadyExistsError(PreconditionFailedError):
    """There is an object under this key already, so none was created."""


class AccessDeniedError(StorageError):
    """The credentials are missing or not sufficient."""


class UnavailableError(StorageError):
    """The store did not answer in time. Nothing was changed, so a retry is safe."""


class StoreFullError(UnavailableError):
    """There is no space left. Nothing was changed, and a retry succeeds once there is space."""


class OutcomeUnknownError(UnavailableError):
    """The store did not answer in time, and the write may or may not have been applied."""


class StoreRefusedError(StorageError):
    """The store lacks a guarantee that the ledger needs, so the service does not use it."""


def is_out_of_space(error: OSError) -> bool:
    """Return whether a write failed because a disk, a quota or a limit of file sizes is used up."""
    return error.errno in _OUT_OF_SPACE
