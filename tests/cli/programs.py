"""Programs as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def program(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of the repository's root, run to its end from there."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("INVERTIBLE_PRIORS")}
    return subprocess.run(
        [sys.executable, name, *arguments],
        cwd=REPOSITORY,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
