"""Whether all that is trained has a gradient, and what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from spatial_ssrl.core.errors import SelfCheckFailed
from spatial_ssrl.policies import weights
from spatial_ssrl.policies.families import VISION_TOWERS

_STEPS = 2  # The inner factor of an adapter has no gradient before the outer one has moved.
_FACTORS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
_NAMED = 5  # names in a message


class GradientAudit:
    """Notes which trainable tensors have had a gradient other than zero.

    Args:
        policy: The policy, loaded.
    """

    def __init__(self, policy: nn.Module) -> None:
        self._trained = {
            _short(name): parameter
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad
        }
        self._unseen = dict(self._trained)
        self._steps = 0

    @property
    def is_complete(self) -> bool:
        """Whether every tensor had its chance: two steps with a gradient, or all were seen.

        A factor waits for as long as the other one is zero, if that one will move.
        """
        waiting = any(
            other not in self._unseen
            for name in self._unseen
            for other in _partners(name)
            if self._is_zero(other)
        )
        return not self._unseen or (self._steps >= _STEPS and not waiting)

    def look(self) -> None:
        """Note the gradients of one step, just before it is taken.

        A step without any gradient, as of groups without signal, tells nothing.
        """
        seen = [name for name, tensor in self._unseen.items() if _has_gradient(tensor)]
        if seen or any(_has_gradient(tensor) for tensor in self._trained.values()):
            self._steps += 1
        for name in seen:
            del self._unseen[name]

    def verdict(self, score: Callable[[], Tensor]) -> str:
        """Tell tensors whose gradient is lost from those that the questions do not use.

        Moving a tensor whose gradient is lost changes what the policy says; moving one it does not
        use, such as the last layers of a vision tower that are never read, changes nothing.

        Args:
            score: Returns log-probabilities of some completions under the present weights.

        Returns:
            One line for the log.

        Raises:
            SelfCheckFailed: If a tensor matters and has no gradient.
        """
        unused = self._without_excuse()
        lost = _that_matter(unused, score) if unused else []
        if lost:
            raise SelfCheckFailed(
                f"{len(unused)} of {len(self._trained)} trained tensors had no gradient in the "
                f"first {self._steps} steps, though the completions depend on {_listed(lost)}. "
                "Something cuts their gradient off: a detached part, checkpointing whose inputs "
                "need no gradient, or float16 without a loss scale. Mend it, or leave them out of "
                "training (lora.target_modules, freeze). update.self_check: false skips this "
                "check."
            )
        line = f"Self-check: {len(self._trained) - len(unused)} of {len(self._trained)} trained "
        if unused:
            return f"{line}tensors learn; these questions do not use {_listed(list(unused))}."
        return f"{line}tensors had a gradient."

    def _without_excuse(self) -> dict[str, nn.Parameter]:
        """Return unseen tensors but those that another factor, still zero, keeps from one."""
        return {
            name: tensor
            for name, tensor in self._unseen.items()
            if not any(self._is_zero(other) for other in _partners(name))
        }

    def _is_zero(self, name: str) -> bool:
        return name in self._trained and not bool(self._trained[name].any())


def _short(name: str) -> str:
    """Return a parameter's name without what wrappers put in front."""
    return name.removeprefix("_model.").removeprefix("base_model.model.")


def _has_gradient(tensor: nn.Parameter) -> bool:
    return tensor.grad is not None and bool(tensor.grad.any())


def _partners(name: str) -> list[str]:
    pairs = [*_FACTORS, *((second, first) for first, second in _FACTORS)]
    return [name.replace(one, other) for one, other in pairs if f".{one}." in f".{name}"]


def _that_matter(tensors: Mapping[str, nn.Parameter], score: Callable[[], Tensor]) -> list[str]:
    """Return the first few tensors on which the scores depend."""
    still = score()
    noise = float((score() - still).abs().max())

    def matters(names: list[str]) -> bool:
        live: dict[str, Tensor] = {name: tensors[name] for name in names}
        with weights.swapped(live, {name: _moved(tensor) for name, tensor in live.items()}):
            return not float((score() - still).abs().max()) <= 4 * noise + 1e-6

    if not matters(list(tensors)):
        return []
    found: list[str] = []
    for name in tensors:
        if matters([name]):
            found.append(name)
        if len(found) == _NAMED:
            break
    return found or list(tensors)


def _moved(tensor: Tensor) -> Tensor:
    """Return a tensor moved by a tenth of its size, or 0.02 if that is zero, in no direction."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(tensor.shape, generator=generator).to(tensor.device, torch.float32)
    size = float(tensor.detach().float().square().mean().sqrt())
    return (tensor.detach().float() + noise * (0.1 * size or 0.02)).to(tensor.dtype)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def trainable_report(policy: nn.Module) -> str:
    """Return one line that says how much is trained, of how much, and where it lies."""
    total, trained = 0, 0
    groups: dict[str, list[int]] = {}
    for name, parameter in policy.named_parameters():
        count = _size(parameter)
        total += count
        if parameter.requires_grad:
            trained += count
            groups.setdefault(_group(name), []).append(count)
    parts = [f"{where} {sum(n):,} in {len(n)} tensors" for where, n in sorted(groups.items())]
    share = 100 * trained / max(total, 1)
    return f"Training {trained:,} of {total:,} weights ({share:.3g} %): {'; '.join(parts)}."


def _size(parameter: nn.Parameter) -> int:
    """Return the number of weights, which 4-bit storage packs into fewer elements."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else int(torch.Size(shape).numel())


def _group(name: str) -> str:
    parts = name.split(".")
    if any(tower in parts for tower in VISION_TOWERS):
        return "vision tower"
    if any("projector" in part or "connector" in part for part in parts):
        return "connector"
    if "lm_head" in parts or any(part.startswith("embed_tokens") for part in parts):
        return "embeddings and head"
    return "language model"
