"""What the cold start and RL share: loading, optimiser, checkpoints, held-out questions."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.policies.base import Collator, PolicyBackbone, Preparer, Trained
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.rollout import InProcess, RolloutEngine
from spatial_ssrl.training import distributed
from spatial_ssrl.training.checkpoint_files import WholeCheckpoints
from spatial_ssrl.training.failures import REMEDY, stop_if_any
from spatial_ssrl.training.fingerprint import check_fingerprint, fingerprint_of
from spatial_ssrl.training.held_out import AccuracyTally, AnswerRecord, answer_greedily
from spatial_ssrl.training.precision import (
    check_device,
    check_precision,
    loss_scaler,
    note_overflow,
    without_scaler,
)
from spatial_ssrl.training.resuming import honour_changes, keep_settings, settings_of
from spatial_ssrl.training.self_check import SelfCheck
from spatial_ssrl.training.settings import ScheduleSettings, UpdateSettings
from spatial_ssrl.verifiers import Verifier, WeightedSum

_IN_WORDS: Mapping[Trained, str] = {
    "adapters": "adapters",
    "pretrained": "every weight of a pretrained model",
    "scratch": "a model trained from scratch",
}

_POLICY, _SHARES_PROMPTS, _FINGERPRINT = "policy", "shares_prompts", "fingerprint"


class _BadGradient(Exception):
    """The norm of a gradient is not finite; raised where the optimiser has not stepped yet."""


class PolicyModule(LightningModule, ABC):
    """A policy in training: everything but the training step.

    Optimisation is manual: an update has micro-batches and inner epochs of its own, and
    clipping is set in `update`, not on the Trainer. Weights are loaded when training or
    evaluation begins, never by the constructor. Checkpoints hold trainable tensors only.

    Several processes (`trainer.devices` above 1, `strategy: ddp`) share each batch. They add up
    their gradients once an optimiser step, so that each may take as many backward passes as
    its questions need, or none.

    Args:
        policy: The policy to train or evaluate.
        rollout: Samples completions; None lets the training model do it in process.
        verifier: Judges completions; None takes 0.9 accuracy and 0.1 format.
        sampling: Length limit of completions, and the temperature of training samples;
            held-out questions are answered greedily.
        optimizer: Builds the optimiser from the trainable parameters; None takes AdamW at the
            rate of `rates` for what is trained.
        schedule: Course of the learning rate.
        update: Micro-batches, inner epochs and clipping.
        seed: Names every random draw of training, together with the step.

    Attributes:
        rates: Learning rates of AdamW, by what is trained.
    """

    rates: ClassVar[Mapping[Trained, float]]

    def __init__(
        self,
        policy: PolicyBackbone,
        rollout: RolloutEngine | None,
        verifier: Verifier | None,
        sampling: SamplingSettings,
        optimizer: OptimizerCallable | None,
        schedule: ScheduleSettings,
        update: UpdateSettings,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.policy = policy
        self.rollout = InProcess() if rollout is None else rollout
        self.verifier = WeightedSum() if verifier is None else verifier
        self.sampling = sampling
        self.optimizer = optimizer
        self.schedule = schedule
        self.update = update
        self.seed = seed
        self._optimizer_settings: dict[str, Any] = {}
        self._tally = AccuracyTally()
        self._grad_norm: Tensor | None = None  # of the step being taken, before clipping

    @abstractmethod
    def collator(self) -> Collator:
        """Return the picklable collator the data module's workers use."""

    def preparer(self) -> Preparer | None:
        """Return what the workers fit questions to the policy with; None if it reads all."""
        return self.policy.preparer(new_tokens=self.sampling.max_new_tokens)

    # Loading and saving.

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before weights are loaded; make checkpoints safe.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ConfigError: If the Trainer's strategy shards the weights, or its device cannot do
                what sampling needs.
        """
        strategy = self.trainer.strategy
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                f"trainer.strategy is {type(strategy).__name__}, which gives each process a part "
                'of the weights, but every process samples with all of them; use "ddp".'
            )
        check_device(strategy.root_device)
        if type(strategy.checkpoint_io) in (TorchCheckpointIO, WholeCheckpoints):
            adapts = self.policy.trained == "adapters"
            strategy.checkpoint_io = WholeCheckpoints(self.policy.save_adapter if adapts else None)
        # What we log is the same in every process.
        warnings.filterwarnings("ignore", r"It is recommended to use .*sync_dist=True")

    def configure_model(self) -> None:
        """Load the policy; does nothing the second time."""
        self.policy.load()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser over the trainable parameters, and its schedule."""
        optimizer = self._new_optimizer()
        if self.optimizer is None:
            rank_zero_info(
                f"model.optimizer names none: AdamW with a learning rate of "
                f"{optimizer.defaults['lr']:g} for {_IN_WORDS[self.policy.trained]}."
            )
        self._optimizer_settings = settings_of(optimizer)
        scheduler = self.schedule.scheduler(optimizer, self._total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def _new_optimizer(self) -> Optimizer:
        make = self.optimizer or partial(AdamW, lr=self.rates[self.policy.trained])
        return make(self.parameter_groups())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trainable parameters as optimiser groups.

        Token embeddings form a group of their own whose `kind` is "embedding": optimisers that
        treat matrices by their spectrum must leave them out, the others ignore the mark.
        """
        embeddings = {
            id(parameter)
            for module in self.policy.modules()
            if isinstance(module, torch.nn.Embedding)
            for parameter in module.parameters()
        }
        parameters = self.trainable_parameters()
        groups = [
            {"params": [p for p in parameters if id(p) not in embeddings], "kind": "weight"},
            {"params": [p for p in parameters if id(p) in embeddings], "kind": "embedding"},
        ]
        return [group for group in groups if group["params"]]

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """Return the policy's parameters that learn."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def configure_callbacks(self) -> list[Callback]:
        """Check the policy as the fit begins, unless told not to."""
        return [SelfCheck()] if self.update.self_check else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable tensors only: the base weights are where they came from."""
        checkpoint["state_dict"] = {}
        checkpoint[_POLICY] = self.policy.trainable_state()
        checkpoint[_SHARES_PROMPTS] = self.policy.shares_prompts
        checkpoint[_FINGERPRINT] = fingerprint_of(self)
        keep_settings(checkpoint, self._optimizer_settings)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the trainable tensors; let changed settings of the optimiser prevail.

        Raises:
            ConfigError: If the checkpoint is of another program, base model, policy or optimiser.
        """
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if _POLICY not in checkpoint:
            raise ConfigError("ckpt_path: the checkpoint is of another program; name one of ours.")
        if _FINGERPRINT in checkpoint:  # Older ones have none.
            check_fingerprint(checkpoint[_FINGERPRINT], self, fitting)
        self.policy.load_trainable_state(checkpoint[_POLICY])
        self.policy.shares_prompts = checkpoint.get(_SHARES_PROMPTS, True)
        if fitting:
            honour_changes(checkpoint, settings_of(self._new_optimizer()))

    def on_fit_start(self) -> None:
        """Refuse what an update would get wrong, and silence advice that does not apply.

        Raises:
            ConfigError: If the Trainer has a precision in which training goes wrong.
        """
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            # Wrapping has made the weights equal. The wrapper's own sums would need one backward
            # pass a step with a gradient for every weight, and memory for all of them.
            self.trainer.strategy.model = self
        check_precision(self.trainer, self.trainable_parameters())
        files = self.trainer.strategy.checkpoint_io
        if isinstance(files, WholeCheckpoints) and self.trainer.is_global_zero:
            files.renew_adapter()
        # A checkpoint of the weights after the step is what resuming needs.
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")

    # Updating.

    def check_loss(self, loss: Tensor, culprit: Callable[[], str | None]) -> None:
        """Stop the run when a loss is NaN or infinite.

        Args:
            loss: Of the whole optimiser step, a scalar.
            culprit: Says which question's loss or gradient is not finite; asked only if this
                one is not.

        Raises:
            NotFinite: In every process, if the loss of any is not finite.
        """
        problem = None
        if not torch.isfinite(loss):
            together = f"the sum of its questions' losses is {float(loss)}. {REMEDY}"
            problem = culprit() or together
        stop_if_any(self.trainer, self.global_step, problem)

    def step_optimizer(self, culprit: Callable[[], str | None]) -> dict[str, float]:
        """Add up the processes' gradients, clip them, step the optimiser and its schedule.

        Where losses are scaled (float16), a step whose gradients overflow changes nothing: it
        counts as a step of the run, but not of the schedule, whose rates are for real updates.

        Args:
            culprit: Says which question's gradient is not finite; asked only if the sum is not.

        Returns:
            `grad_norm`, before clipping (left out when the step was skipped), and the learning
            rate `lr` of the step; where losses are scaled also `loss_scale`, and `overflow`,
            which is 1 for a skipped step.

        Raises:
            NotFinite: If a gradient is not finite; the optimiser has not stepped.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        if not isinstance(optimizer, LightningOptimizer) or not isinstance(scheduler, LambdaLR):
            raise TypeError("step_optimizer serves one optimiser with one LambdaLR schedule.")
        distributed.sum_gradients(self.trainable_parameters())
        rate, step = float(optimizer.param_groups[0]["lr"]), self.global_step
        scaler = loss_scaler(self.trainer)
        scale = 1.0 if scaler is None else scaler.get_scale()
        try:
            norm = self._clip_and_step(optimizer)
        except _BadGradient as error:
            together = f"the norm of its gradient is {error}. {REMEDY}"
            stop_if_any(self.trainer, step, culprit(), otherwise=together)
            raise
        optimizer.zero_grad(set_to_none=True)
        if scaler is None:
            scheduler.step()
            return {"grad_norm": norm, "lr": rate}
        scaling = {"loss_scale": scale, "overflow": float(scaler.get_scale() < scale)}
        if scaling["overflow"]:
            note_overflow(scaler.get_scale(), step)
            return {"lr": rate, **scaling}
        scheduler.step()
        return {"grad_norm": norm, "lr": rate, **scaling}

    def _clip_and_step(self, optimizer: LightningOptimizer) -> float:
        """Step the optimiser, clipping on the way; return the norm before clipping."""
        self._grad_norm = None
        if any(parameter.grad is not None for parameter in self.trainable_parameters()):
            optimizer.step()
        else:
            with without_scaler(self.trainer):
                optimizer.step()
        if self._grad_norm is None:
            raise TypeError(
                f"{type(optimizer.optimizer).__name__}.step() does not call the closure it is "
                "given, so gradients could not be clipped; use an optimiser that does."
            )
        return float(self._grad_norm)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients: the loss scale of float16 has been divided out by now, not before.

        Infinite ones are refused, but for those of a scaled loss, whose scaler skips the step.
        """
        parameters = self.trainable_parameters()
        self._grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self.update.clip_norm)
        if loss_scaler(self.trainer) is None and not torch.isfinite(self._grad_norm):
            raise _BadGradient(float(self._grad_norm))

    @contextmanager
    def noise_of_step(self) -> Iterator[None]:
        """Let dropout draw from a stream named by the step, so that a resumed run repeats it.

        Each process has its own stream.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed_for(self.seed, "noise", self.global_step, self.global_rank))
            yield

    def log_training(self, metrics: Mapping[str, float]) -> None:
        """Log one step's metrics under `train/`; reward and loss in the progress bar too."""
        for name, value in metrics.items():
            self.log(f"train/{name}", value, prog_bar=name in ("reward", "loss"))

    # Held-out questions.

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self._tally = AccuracyTally()

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, list[AnswerRecord]]:
        """Answer one batch of held-out questions and hand the records to callbacks."""
        records = self._answer(batch)
        self._tally.add(records)
        return {"records": records}

    def on_validation_epoch_end(self) -> None:
        """Log `val/accuracy/<task>` and their mean, `val/accuracy/mean`."""
        self._log_accuracies("val")

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self._tally = AccuracyTally()

    def test_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, list[AnswerRecord]]:
        """Answer one batch of held-out questions and hand the records to callbacks."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test/accuracy/<task>` and their mean, `test/accuracy/mean`."""
        self._log_accuracies("test")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, object]]:
        """Answer one batch of questions; plain values, since Lightning copies them field-wise."""
        return [record.as_dict() for record in self._answer(batch)]

    def _answer(self, batch: PromptBatch) -> list[AnswerRecord]:
        return answer_greedily(self.policy, self.rollout, self.verifier, batch, self.sampling)

    def _log_accuracies(self, stage: str) -> None:
        accuracies = self._tally.over_processes().accuracies()
        self.log_dict({f"{stage}/accuracy/{name}": value for name, value in accuracies.items()})

    @property
    def steps_of_update(self) -> int:
        """Optimiser steps on one batch of questions."""
        return 1

    def _total_steps(self) -> int | None:
        """Return the optimiser steps of the run, or None when it has no end."""
        if self.trainer.max_steps >= 0:
            return self.trainer.max_steps
        steps = self.trainer.estimated_stepping_batches
        return None if steps == float("inf") else int(steps) * self.steps_of_update
