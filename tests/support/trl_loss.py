"""TRL's own loss and advantages, run without a trainer, a model or data."""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from types import CodeType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that its interface may change, which these tests would show
    from trl.experimental.gmpo import GMPOTrainer as GMPOTrainer

_DEFAULTS: dict[str, Any] = {
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "max_completion_length": 8,
    "use_vllm": False,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "aux_loss_enabled": False,
    "current_gradient_accumulation_steps": 1,
    "_entropy_bonus_enabled": False,
}
_ARGS: dict[str, Any] = {
    "delta": None,
    "use_bias_correction_kl": True,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "steps_per_generation": 1,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}


def trainer(logprobs: Tensor, **settings: Any) -> SimpleNamespace:
    """Return what TRL's methods read of a trainer.

    Args:
        logprobs: What the trainer's model is to answer, shape (N, C).
        settings: Attributes of the trainer, or of its `args`, that differ from the defaults.
    """
    args = {name: settings.pop(name, value) for name, value in _ARGS.items()}
    unknown = set(settings) - set(_DEFAULTS)
    assert not unknown, unknown

    def score(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return logprobs, torch.zeros_like(logprobs), None

    alone = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
    )
    return SimpleNamespace(
        **(_DEFAULTS | settings),
        args=SimpleNamespace(**args),
        accelerator=alone,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=score,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )


def grpo_loss(
    logprobs: Tensor,
    given: dict[str, Tensor],
    trainer_class: type[GRPOTrainer] = GRPOTrainer,
    **settings: Any,
) -> Tensor:
    """Return the loss of TRL's `GRPOTrainer`, or of its subclass `GMPOTrainer`.

    Args:
        logprobs: Under the weights being trained, shape (N, C), with gradient.
        given: `old`, `reference`, `sampling` and `mask` of shape (N, C), and `advantages`, (N,);
            `tokens`, those of the whole update, when these rows are a part of it.
        trainer_class: Whose loss.
        settings: As for `trainer`.
    """
    stand_in = trainer(logprobs, **settings)
    mask = given["mask"].long()
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": given.get("tokens", mask.sum()),
    }
    if stand_in.off_policy_mask_threshold is not None:
        inputs["sampling_per_token_logps"] = given["sampling"]
    if stand_in.use_vllm:
        inputs["importance_sampling_ratio"] = _block(
            "self.use_vllm and self.vllm_importance_sampling_correction",
            "vllm_importance_sampling_ratio",
            self=stand_in,
            completion_mask=mask,
            tool_mask=None,
            old_per_token_logps=given["old"],
            sampling_per_token_logps=given["sampling"],
        )
    return trainer_class._compute_loss(stand_in, None, inputs)  # type: ignore[arg-type]


def rloo_loss(logprobs: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Return the loss of TRL's `RLOOTrainer`; arguments as for `grpo_loss`."""
    mask = given["mask"].long()
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": given["advantages"],
        "old_logps": (given["old"] * mask).sum(1),
    }
    return RLOOTrainer._compute_loss(trainer(logprobs), None, inputs)  # type: ignore[arg-type]


def grpo_advantages(
    parts: Tensor, weights: Tensor, group_size: int, scale: str, combine: str
) -> Tensor:
    """Return the advantages of TRL's `GRPOTrainer`, shape (N,).

    Args:
        parts: Reward by each reward function, shape (N, K); NaN where one does not apply.
        weights: Weight of each, shape (K,).
        group_size: Completions per question.
        scale: `scale_rewards`.
        combine: `multi_objective_aggregation`.
    """
    found = _block(
        "self.multi_objective_aggregation == 'sum_then_normalize'",
        "advantages",
        self=SimpleNamespace(
            multi_objective_aggregation=combine,
            scale_rewards=scale,
            reward_weights=weights,
            reward_funcs=[None] * len(weights),
        ),
        rewards_per_func=parts,
        num_generations=group_size,
        unscorable_mask=parts.isnan().all(dim=1),
        device=parts.device,
    )
    return torch.nan_to_num(found, nan=0.0)


def _block(condition: str, result: str, **names: Any) -> Tensor:
    """Run the one `if` statement of TRL's scoring method that sets `result`, on these names."""
    scope = {**vars(grpo_trainer), **names}
    exec(_compiled(condition, result), scope)
    value: Tensor = scope[result]
    return value


@cache
def _compiled(condition: str, result: str) -> CodeType:
    method: Callable[..., Any] = inspect.unwrap(GRPOTrainer._generate_and_score_completions)
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    (found,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == condition
        and f"{result} = " in ast.unparse(node)
    ]
    return compile(ast.Module([found], []), "trl", "exec")
