"""Every error the engine raises on purpose.

DTIError
|-- ConfigurationError (ValueError)     a value is out of range or two values contradict
|-- ZeroVectorError (ValueError)        the direction of a zero vector is undefined
|-- AntipodalError (ValueError)         no unique geodesic or mean between these directions
|-- ModelError
|   `-- ModelLoadError               weights are missing, damaged or of another architecture
|-- SubjectError                        the caller's subject cannot be trained
|   |-- InvalidImageError               one or more images were refused; each has its reason
|   |-- InvalidBundleError              a folder or archive was refused; all that is wrong is listed
|   |-- TokenError                      the tokenizer cannot use placeholder or initializer
|   `-- CheckpointError                 what it was to go on from is damaged, newer or not its own
|-- ArtifactError
|   |-- ArtifactFormatError             not ours, damaged or newer: refused, never guessed
|   `-- ArtifactMismatchError           made for another backbone, encoder or dimension
`-- FailedError                         nothing was wrong with the request, and yet it failed
    |-- TrainingFailedError             one subject's slot ended: non-finite loss or zero gradient
    |-- GenerationFailedError             the model made something that is no image
    `-- OutputError                     what was made cannot be written

Messages say what was given, what is allowed and what to do. All arguments are positional strings,
so that every error survives pickling between processes.
"""

from typing import Self


class DTIError(Exception):
    """Base of all errors that the engine raises on purpose."""

    def bare(self) -> Self:
        """The error without what it came through, for whoever keeps it: the frames of a traceback
        hold all that was at work, such as images and latents.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class ConfigurationError(DTIError, ValueError):
    """A value is out of range, or two values contradict each other."""


class ZeroVectorError(DTIError, ValueError):
    """The direction of a zero vector was asked for."""


class AntipodalError(DTIError, ValueError):
    """Directions too far apart for a unique geodesic or mean between them."""


class ModelError(DTIError):
    """A diffusion model cannot be used."""


class ModelLoadError(ModelError):
    """Weights are missing, damaged or of another architecture."""


class SubjectError(DTIError):
    """The subject, as given, cannot be trained."""


class InvalidImageError(SubjectError):
    """One or more images were refused; the message lists each with its reason."""


class InvalidBundleError(SubjectError):
    """A folder or archive of images was refused; the message lists all that is wrong with it."""


class TokenError(SubjectError):
    """A placeholder, initializer or prompt cannot be used with this tokenizer."""


class CheckpointError(SubjectError):
    """The checkpoint a subject was to go on from is damaged, newer, or of another training."""


class ArtifactError(DTIError):
    """A learned-token file cannot be used."""


class ArtifactFormatError(ArtifactError):
    """The file is not ours, is damaged, or has a newer schema."""


class ArtifactMismatchError(ArtifactError):
    """The token was made for another backbone, encoder or dimension."""


class FailedError(DTIError):
    """Nothing was wrong with what was asked for, and yet it failed."""


class TrainingFailedError(FailedError):
    """One subject's slot ended by name: non-finite loss, or an exactly zero gradient."""


class GenerationFailedError(FailedError):
    """No image came of it: the model made something else, or memory ran out."""


class OutputError(FailedError):
    """What was made cannot be written."""
