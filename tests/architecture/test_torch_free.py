"""The lowest layer loads no torch, so that a process which only checks requests stays small."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "dti_engine",
        "dti_engine.errors",
        "dti_engine.config",
        "dti_engine.artifacts.programs",
        "dti_engine.recipes",
        "dti_engine.images.bundles.bundle",
        "dti_engine.cli.app",
        "services.errors",
        "services.logs",
        "services.metrics",
        "services.settings",
        "services.storage.instrumented",
        "services.storage.open",
        "services.storage.probe",
        "services.storage.s3",
        "services.inference.ray_serve",
        "services.supervisor.__main__",
        "services.training.ray_pool",
    ],
)
def test_importing_it_loads_no_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
