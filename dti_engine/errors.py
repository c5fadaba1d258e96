"""The exception tree: every error that the engine raises on purpose.

DTIError
|-- ConfigurationError (ValueError)     a value is out of range, or two values contradict
|-- ZeroVectorError (ValueError)        a zero vector has no direction
|-- AntipodalError (ValueError)         two directions have no unique geodesic or mean
|-- ModelError                          a diffusion model cannot be used
|   `-- ModelLoadError                  its weights are missing, damaged or of an unknown kind
|-- SubjectError                        a subject cannot be trained as given
|   |-- InvalidImageError               images were rejected; the message gives each one's reason
|   |-- InvalidBundleError              a folder or archive was rejected; the message lists why
|   |-- TokenError                      the tokenizer cannot use a placeholder or prompt
|   `-- CheckpointError                 the checkpoint is damaged, newer or of another training
|-- ArtifactError                       a token file cannot be used
|   |-- ArtifactFormatError             the file is foreign, damaged or newer
|   `-- ArtifactMismatchError           the token was made for another model, encoder or dimension
`-- FailedError                         a valid request failed
    |-- TrainingFailedError             a slot met a non-finite loss or a zero gradient
    |-- GenerationFailedError           the model produced no valid image, or memory ran out
    `-- OutputError                     a result cannot be written

A message says what was given, what is allowed and what to do. All arguments are positional strings,
so that every error survives pickling between processes.
"""

from typing import Self


class DTIError(Exception):
    """Base class of all errors that the engine raises on purpose."""

    def bare(self) -> Self:
        """Return the error without its traceback and causes, so that it can be stored.

        The frames of a traceback keep every local alive, such as images and latents.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class ConfigurationError(DTIError, ValueError):
    """A value is out of range, or two values contradict each other."""


class ZeroVectorError(DTIError, ValueError):
    """A zero vector has no direction."""


class AntipodalError(DTIError, ValueError):
    """Two directions are too far apart for a unique geodesic or mean."""


class ModelError(DTIError):
    """A diffusion model cannot be used."""


class ModelLoadError(ModelError):
    """The weights are missing, damaged or of an unknown architecture."""


class SubjectError(DTIError):
    """A subject cannot be trained as given."""


class InvalidImageError(SubjectError):
    """Images were rejected; the message gives each one's reason."""


class InvalidBundleError(SubjectError):
    """A folder or archive of images was rejected; the message lists everything wrong with it."""


class TokenError(SubjectError):
    """The tokenizer cannot use a placeholder, initializer or prompt."""


class CheckpointError(SubjectError):
    """The checkpoint to resume from is damaged, newer, or of another training."""


class ArtifactError(DTIError):
    """A token file cannot be used."""


class ArtifactFormatError(ArtifactError):
    """The file is foreign, damaged, or has a newer schema."""


class ArtifactMismatchError(ArtifactError):
    """The token was made for another model, encoder or dimension."""


class FailedError(DTIError):
    """A valid request failed."""


class TrainingFailedError(FailedError):
    """A slot met a non-finite loss, or a gradient that is exactly zero."""


class GenerationFailedError(FailedError):
    """The model produced no valid image, or memory ran out."""


class OutputError(FailedError):
    """A result cannot be written."""
