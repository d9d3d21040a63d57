"""timm, imported when an encoder is built: every command would wait for it else."""

from __future__ import annotations

from types import ModuleType


def timm_library() -> ModuleType:
    """Return the module `timm`, which knows the encoder of this package too."""
    import timm

    from spatial_ssrl.policies.tiny import encoder  # noqa: F401 (registers itself)

    return timm
