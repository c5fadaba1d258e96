"""Every error the service raises on purpose.

ServiceError (DTIError)
|-- SettingsError (ConfigurationError)  a setting or URL is malformed, or contradicts another
|-- QuotaError                          more was asked for than the caller may have at a time
|-- UnknownUploadError                  nothing was uploaded under this digest
|-- LargeUploadError                    what was uploaded is larger than is allowed for its use
|-- DamagedUploadError                  what was uploaded has another digest
|-- UnknownKeyError                     no key that is valid was shown, or there is none of this id
|-- UnknownTenantError                  there is no such tenant
|-- UnsafeUrlError                      no webhook is sent there
|-- NoEngineError                       nothing that generates with this model answers now: ask again
|   `-- QueueFullError                  it has too much to do to take more
|-- LateError                           the time in which an answer was wanted has passed
|-- UnsafeImageError                  the image that was made may not be shown
|-- UnknownModelError                   no model of this name is offered
|-- UnknownImageError                 the tenant has no such image, or the link to it is none
|-- LedgerError
|   |-- InvalidIdError (ValueError)     no tenant, job, item, token or worker is called that
|   |-- ConflictError                   it contradicts what was asked for before
|   |-- UnknownJobError                 the tenant has no such job, item or token
|   |-- DeletedError                    it was deleted, for good
|   |-- LeaseLostError                  others hold this worker for dead, and do its work
|   |-- SupersededError                 the item has ended otherwise meanwhile
|   `-- DamagedRecordError              an object is not what the ledger writes there
`-- StorageError
    |-- InvalidKeyError (ValueError)    no store takes this key, prefix or page size
    |-- InvalidRangeError (ValueError)  the range begins at or beyond the end of the object
    |-- NotFoundError                   there is no object under this key
    |-- PreconditionFailedError         another version stands there: the race is lost
    |   `-- AlreadyExistsError          an object stands there, so none was created
    |-- AccessDeniedError               credentials are missing, or do not allow it
    |-- UnavailableError                the store did not answer in time, nothing changed: retry
    |   `-- OutcomeUnknownError         the same, but the write may have been applied: read first
    `-- StoreRefusedError               the store cannot keep what the ledger needs; not used

Messages say what was given, what is allowed and what to do. All arguments are positional strings,
so that every error survives pickling between processes.
"""

from dti_engine.errors import ConfigurationError, DTIError


class ServiceError(DTIError):
    """Base of all errors that the service raises on purpose."""


class SettingsError(ServiceError, ConfigurationError):
    """A setting or store URL is malformed, or contradicts another."""


class QuotaError(ServiceError):
    """More was asked for than the caller may have at a time. A second argument has the seconds
    after which to ask again.
    """

    @property
    def seconds(self) -> float:
        return float(self.args[1]) if len(self.args) > 1 else 1.0

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownUploadError(ServiceError):
    """Nothing was uploaded under this digest, or it was removed."""


class LargeUploadError(ServiceError):
    """What was uploaded is larger than is allowed for its use, and was not fetched."""


class DamagedUploadError(ServiceError):
    """What was uploaded has another digest than it was announced with."""


class UnknownKeyError(ServiceError):
    """No key that is valid was shown, or there is none of this id."""


class UnknownTenantError(ServiceError):
    """There is no such tenant."""


class UnsafeUrlError(ServiceError):
    """No webhook is sent there: it is no URL, or leads to what is not public."""


class NoEngineError(ServiceError):
    """Nothing that generates with this model answers now. A second argument has the seconds after
    which to ask again.
    """

    @property
    def seconds(self) -> float:
        return float(self.args[1]) if len(self.args) > 1 else 5.0

    def __str__(self) -> str:
        return str(self.args[0])


class QueueFullError(NoEngineError):
    """It has too much to do to take more."""


class LateError(ServiceError):
    """The time in which an answer was wanted has passed."""


class UnsafeImageError(ServiceError):
    """The image that was made may not be shown."""


class UnknownModelError(ServiceError):
    """No model of this name is offered."""


class UnknownImageError(ServiceError):
    """The tenant has no such image, or the link to it is none, or no more."""


class LedgerError(ServiceError):
    """The ledger did not do what it was asked for."""


class InvalidIdError(LedgerError, ValueError):
    """No tenant, job, item, token or worker is called that."""


class ConflictError(LedgerError):
    """It contradicts what was asked for before."""


class UnknownJobError(LedgerError):
    """The tenant has no such job, item or token."""


class DeletedError(LedgerError):
    """It was deleted, for good."""


class LeaseLostError(LedgerError):
    """Others hold this worker for dead, and do its work. It must stop, and begin as a new one."""


class SupersededError(LedgerError):
    """The item has ended otherwise meanwhile. Nothing was changed."""


class DamagedRecordError(LedgerError):
    """An object is not what the ledger writes there."""


class StorageError(ServiceError):
    """A store did not do what it was asked for."""


class InvalidKeyError(StorageError, ValueError):
    """No store takes this key, prefix or page size."""


class InvalidRangeError(StorageError, ValueError):
    """The range begins at or beyond the end of the object, or is no range."""


class NotFoundError(StorageError):
    """There is no object under this key."""


class PreconditionFailedError(StorageError):
    """Another version than the expected one stands under this key."""


class AlreadyExistsError(PreconditionFailedError):
    """An object stands under this key, so none was created."""


class AccessDeniedError(StorageError):
    """Credentials are missing, or do not allow this."""


class UnavailableError(StorageError):
    """The store did not answer in time. Nothing was changed, so trying again later is right."""


class OutcomeUnknownError(UnavailableError):
    """The store did not answer in time, and the write may or may not have been applied."""


class StoreRefusedError(StorageError):
    """The store cannot keep what the ledger needs, so it is not used at all."""
