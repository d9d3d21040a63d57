"""Where the configs that come with the library are."""

from __future__ import annotations

from pathlib import Path

import spatial_ssrl
from spatial_ssrl.core.errors import ConfigError


def shipped_config(name: str) -> Path:
    """Return the path of a config that comes with the library.

    Args:
        name: Path under `configs`, such as "quickstart/grpo.yaml".

    Raises:
        ConfigError: If the installation lacks it.
    """
    package = Path(spatial_ssrl.__file__).parent
    # A wheel carries the configs inside the package; a checkout has them at its top.
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"configs/{name} is not part of this installation; install the library again."
    )
