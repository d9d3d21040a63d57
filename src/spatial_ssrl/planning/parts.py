"""Which part of the work memory belongs to, told by hooks on a policy made of ghosts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.ledger import Ledger
from spatial_ssrl.policies import families
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy

WEIGHTS = "weights"
QUANTISATION = "quantisation state"
ADAPTERS = "adapters"
REFERENCE = "reference copy"
GRADIENTS = "gradients"
OPTIMISER = "optimiser state"
PICTURES = "pictures of the batch"
VISION = "vision activations"
PROMPT_CACHE = "prompt cache"
COMPLETION_CACHE = "completion cache"
LANGUAGE = "scoring activations"
LOGITS = "logits"
PARTS = (
    WEIGHTS,
    QUANTISATION,
    ADAPTERS,
    REFERENCE,
    GRADIENTS,
    OPTIMISER,
    PICTURES,
    VISION,
    PROMPT_CACHE,
    COMPLETION_CACHE,
    LANGUAGE,
    LOGITS,
)


class Stage:
    """Tells a ledger what a policy is doing, layer by layer.

    Moments are named by the stage (`name`, such as "sampling"), the module and the place of the
    layer in it: first, last or between. So they have the same names in models of any depth.

    Args:
        policy: The policy, loaded where tensors are ghosts.
        ledger: Where its memory is noted.
    """

    def __init__(self, policy: HFVisionLanguagePolicy, ledger: Ledger) -> None:
        self.ledger = ledger
        self.name = ""
        self.rest = LANGUAGE  # what is neither vision nor logits
        network = policy.network
        book_model(policy, ledger)
        for tower in _vision_towers(network):
            tower.register_forward_pre_hook(self._entering("vision", VISION))
            tower.register_forward_hook(self._left("vision", VISION))
            self._follow(tower, "vision", VISION)
        decoder = network.get_decoder()
        decoder.register_forward_pre_hook(self._entering("language", LANGUAGE))
        self._follow(decoder, "language", LANGUAGE)
        policy.logits = self._watched(policy.logits)  # type: ignore[method-assign, assignment]
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient)

    def enter(self, name: str, rest: str) -> None:
        """Begin a stage; `rest` is the part of what belongs to no other."""
        self.name, self.rest = name, rest
        self.ledger.enter(name, rest)

    def _follow(self, tower: nn.Module, kind: str, part: str) -> None:
        for index, layers in enumerate(_stacks(tower)):
            for number, layer in enumerate(layers):
                place = {0: "first", len(layers) - 1: "last"}.get(number, "between")
                moment = f"{kind} {index} {place}"
                layer.register_forward_pre_hook(self._entering(moment, part))
                layer.register_forward_hook(self._left(moment, part))

    def _entering(self, moment: str, part: str) -> Callable[..., None]:
        """Return a hook that sees a module begin."""

        def hook(module: nn.Module, args: Any) -> None:
            self.ledger.enter(f"{self.name}: {moment}", part)

        return hook

    def _left(self, moment: str, part: str) -> Callable[..., None]:
        """Return a hook that sees a module's output go, and its gradient come back."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.ledger.enter(f"{self.name}: after {moment}", part)
            tensor = _first_tensor(output)
            if tensor is not None and tensor.requires_grad:
                tensor.register_hook(self._back(moment, part))

        return hook

    def _back(self, moment: str, part: str) -> Callable[[Tensor], None]:
        """Return a hook of a tensor that sees its gradient come."""

        def hook(gradient: Tensor) -> None:
            self.ledger.enter(f"{self.name}: back to {moment}", part)

        return hook

    def _watched(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a policy's `logits`, each call of which is a moment."""

        @functools.wraps(logits)
        def watched(hidden: Tensor) -> Tensor:
            self.ledger.enter(f"{self.name}: logits", LOGITS)
            return logits(hidden)

        return watched

    def _gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.ledger.assign(parameter.grad, GRADIENTS)


def book_model(policy: HFVisionLanguagePolicy, ledger: Ledger) -> None:
    """Book a model's tensors to weights, the state of their quantisation, and adapters."""
    for buffer in policy.buffers():
        ledger.assign(buffer, WEIGHTS)
    for name, parameter in policy.named_parameters():
        ledger.assign(parameter, ADAPTERS if ".lora_" in name else WEIGHTS)
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            for tensor in (state.absmax, state.code, state.offset):
                if isinstance(tensor, Tensor):
                    ledger.assign(tensor, QUANTISATION)
            state = state.state2


def _vision_towers(network: PreTrainedModel) -> list[nn.Module]:
    try:
        names = families.freeze_groups(network)["vision_tower"]
    except ConfigError:  # What no family describes counts as language model.
        return []
    modules = dict(network.named_modules())
    return [modules[name] for name in names if name in modules]


def _stacks(tower: nn.Module) -> list[nn.ModuleList]:
    """Return the lists of layers of a tower, those inside layers left out."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in tower.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not inside:
            found.append((name, module))
    return [module for _, module in found]


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list | tuple) and output:
        return _first_tensor(output[0])
    return getattr(output, "last_hidden_state", None)
