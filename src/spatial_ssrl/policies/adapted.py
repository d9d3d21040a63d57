"""Models with adapters around them, spoken of before PEFT is imported.

Importing PEFT takes as long as importing PyTorch. This module is apart from those whose settings
a config gives, because what parses configs also runs their imports for type checkers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    Adapted: TypeAlias = PeftModel
    AdapterConfig: TypeAlias = LoraConfig
else:
    Adapted, AdapterConfig = nn.Module, object


def is_adapted(model: nn.Module | None) -> TypeGuard[Adapted]:
    """Return whether a model has adapters of PEFT around it."""
    peft = sys.modules.get("peft")  # Until it is imported, no model has any.
    return peft is not None and isinstance(model, peft.PeftModel)
