"""What commands work on, opened: models and token files."""

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

_RENAMED = re.compile(r"(<[^>]*>)=(.+)")


def open_backbone(
    weights: str, *, device: str = "auto", dtype: DtypeName = "auto", compiled: bool = False
) -> "Backbone":
    """The model, loaded while a spinner turns; compiled when it is first used, if asked for.

    Raises: ModelLoadError; ConfigurationError if this machine has no such device.
    """
    is_local = weights == "miniature" or Path(weights).expanduser().exists()
    quiet_libraries(downloading=not is_local)
    with busy(f"loading {weights}"):
        from dti_engine.backbones import load_backbone
        from dti_engine.devices import find_device, find_dtype

        found = find_device(device)
        backbone = load_backbone(weights, device=found, dtype=find_dtype(dtype, found))
    if compiled:
        backbone.compile()
    return backbone


def renamed(value: str) -> tuple[str | None, str]:
    """`<name>=TOKEN` as placeholder and token; TOKEN alone has no placeholder of its own here."""
    found = _RENAMED.fullmatch(value)
    return (found[1], found[2]) if found else (None, value)


def open_tokens(values: Sequence[str]) -> dict[str, "Artifact"]:
    """Token files by the placeholder that stands for them; `<name>=FILE` gives a file another one.

    Raises: ArtifactError; TokenError if two would have one placeholder.
    """
    from dti_engine.artifacts.artifact import Artifact

    artifacts: dict[str, Artifact] = {}
    for value in values:
        given, file = renamed(value)
        artifact = Artifact.load(Path(file))
        placeholder = given or artifact.manifest.placeholder
        if placeholder in artifacts:
            raise TokenError(
                f"two tokens would be {placeholder}; give one of them another name in these "
                f"prompts: --token '<other>={file}'"
            )
        artifacts[placeholder] = artifact
    return artifacts


def warn_of_other_weights(artifacts: Iterable["Artifact"], backbone: "Backbone") -> None:
    """Say which tokens were made with other weights. Raises: ArtifactMismatchError if unusable."""
    dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
    for artifact in artifacts:
        if warning := artifact.check_compatibility(dims, backbone.fingerprint):
            warn(warning)
