"""Models and token files that commands name, opened."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine.cli.console import busy, quiet_libraries, warn
from dti_engine.config import DtypeName
from dti_engine.errors import TokenError

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.backbones.interface import Backbone

_BINDING = re.compile(r"(<[^>]*>)=(.+)")


def open_backbone(
    model: str, *, device: str = "auto", dtype: DtypeName = "auto", compiled: bool = False
) -> "Backbone":
    """Load a model while a spinner turns; `compiled` compiles its denoiser on first use.

    Raises: ModelLoadError; ConfigurationError if this machine has no such device.
    """
    is_local = model == "miniature" or Path(model).expanduser().exists()
    quiet_libraries(downloading=not is_local)
    with busy(f"loading {model}"):
        from dti_engine.backbones import load_backbone
        from dti_engine.devices import find_device, find_dtype

        found = find_device(device)
        backbone = load_backbone(model, device=found, dtype=find_dtype(dtype, found))
    if compiled:
        backbone.compile()
    return backbone


def split_binding(value: str) -> tuple[str | None, str]:
    """Split `<x>=NAME` of `--token` into placeholder and name; NAME alone has no placeholder."""
    found = _BINDING.fullmatch(value)
    return (found[1], found[2]) if found else (None, value)


def open_tokens(values: Sequence[str]) -> dict[str, "Artifact"]:
    """Load the token files of `--token`, by placeholder.

    Raises: ArtifactError if a file cannot be read; TokenError if two have one placeholder.
    """
    from dti_engine.artifacts.artifact import Artifact

    artifacts: dict[str, Artifact] = {}
    for value in values:
        placeholder, file = split_binding(value)
        artifact = Artifact.load(Path(file))
        placeholder = placeholder or artifact.manifest.placeholder
        if placeholder in artifacts:
            raise duplicate_placeholder(placeholder, file)
        artifacts[placeholder] = artifact
    return artifacts


def duplicate_placeholder(placeholder: str, name: str) -> TokenError:
    """Return the error for two tokens with one placeholder, which says how to rename one."""
    return TokenError(
        f"two tokens would be {placeholder}; give one of them another name in these prompts: "
        f"--token '<other>={name}'"
    )


def warn_of_other_weights(artifacts: Iterable["Artifact"], backbone: "Backbone") -> None:
    """Warn of tokens that were trained with other weights.

    Raises: ArtifactMismatchError if one has other dimensions than the model.
    """
    dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
    for artifact in artifacts:
        if warning := artifact.check_compatibility(dims, backbone.fingerprint):
            warn(warning)
