"""Groups that wait until there are enough of them for an update."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from spatial_ssrl.core.batches import Rollouts
from spatial_ssrl.core.errors import SpatialSSRLError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.training.distributed import gather, rank, world_size
from spatial_ssrl.training.groups import Groups, join_groups
from spatial_ssrl.training.settings import UpdateSettings


class GroupBuffer:
    """Sampled groups that no update has learned from yet, first in, first out.

    They wait on the CPU with the log-probabilities they were sampled with, so that an update by
    newer weights treats them as what they are: drawn from older ones. All processes hold the
    groups of all, in the order in which one process would have sampled them, and so take the
    same updates as one.

    Attributes:
        tries: Batches that were sampled since the last update and found too few groups.
    """

    def __init__(self) -> None:
        self.tries = 0
        self._waiting: list[Groups] = []  # of one question each

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, groups: Groups) -> None:
        """Put groups at the end."""
        self._waiting += _one_by_one(groups)

    def take(self, count: int) -> list[Groups]:
        """Take out at most `count` groups from the front, and start counting tries anew."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self.tries = 0
        return taken

    def exchange(self, groups: Groups, settings: UpdateSettings) -> Groups | None:
        """Add the groups of a batch that are worth it, and take out those of an update.

        Groups without signal that are to be replaced are forgotten.

        Args:
            groups: Of this process's share of the batch, on any device.
            settings: Say which groups are replaced, and how many batches are tried.

        Returns:
            This process's share of as many groups as the whole batch had, or of fewer when
            enough batches were tried: none at all, if there are fewer than processes. `groups`
            if no process found any, so that a run ends nevertheless. None when the update has
            to wait for another batch; all processes wait together.
        """
        worth = [
            row
            for row, (question, signal) in enumerate(
                zip(groups.questions, groups.has_signal.tolist(), strict=True)
            )
            if signal or settings.flat_groups_of(question.task) != "resample"
        ]
        mine = _one_by_one(groups.select(worth)) if worth else []
        everywhere = gather((len(groups), mine), "collecting groups with signal")
        self._waiting += [group for _, found in everywhere for group in found]
        size = sum(count for count, _ in everywhere)
        if len(self) < size and self.tries < settings.resample_batches:
            self.tries += 1
            return None
        taken = self.take(size)
        start, stop = (len(taken) * place // world_size() for place in (rank(), rank() + 1))
        if not taken:
            return groups
        # Of an empty share not even the batch: its groups are learned from elsewhere, or wait.
        return join_groups(taken[start:stop]) if start < stop else groups.select([])

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and text, which load with `weights_only=True`."""
        return {"tries": self.tries, "groups": [_packed(groups) for groups in self._waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Wait with what `state_dict` recorded, and nothing else."""
        self.tries = state["tries"]
        self._waiting = [_unpacked(packed) for packed in state["groups"]]

    def drop_other_sizes(self, group_size: int) -> None:
        """Forget groups of another size than those of the run, with a warning.

        Groups of two sizes cannot be joined, and those of the former alone would be learned from
        as if the size had not been changed.

        Args:
            group_size: Completions of each question in this run.
        """
        sizes = [group.rollouts.group_size for group in self._waiting]
        others = sorted({size for size in sizes if size != group_size})
        if not others:
            return
        kept = [group for group in self._waiting if group.rollouts.group_size == group_size]
        rank_zero_warn(
            f"model.group_size is {group_size}, but was another when the checkpoint was written: "
            f"{len(sizes) - len(kept)} groups of {' and '.join(map(str, others))} that waited for "
            "an update are dropped. Their questions may be asked again later."
        )
        self._waiting = kept


def _one_by_one(groups: Groups) -> list[Groups]:
    """Return the groups of each question by themselves, on the CPU."""
    return [groups.select([row]).to("cpu") for row in range(len(groups))]


# Tensors of rollouts and groups, each stored under its own name.
_OF_ROLLOUTS = ("tokens", "mask", "logprobs", "truncated")
_OF_GROUPS = ("greedy_rewards", "has_signal", "takes_part", "old_logprobs")


def _packed(groups: Groups) -> dict[str, Any]:
    """Return one group as tensors and JSON text."""
    (question,) = groups.questions
    rollouts = groups.rollouts
    # Tensors that are parts of larger ones would be stored with the whole of them.
    tensors = {name: _own(getattr(rollouts, name)) for name in _OF_ROLLOUTS}
    tensors |= {name: _own(getattr(groups, name)) for name in _OF_GROUPS}
    words = {f.name: getattr(question, f.name) for f in fields(question) if f.name != "images"}
    words["meta"] = dict(question.meta)
    try:
        text = json.dumps(
            {
                "question": words,
                "texts": rollouts.texts,
                "group_size": rollouts.group_size,
                "verdicts": [asdict(verdict) for verdict in groups.verdicts],
            }
        )
    except TypeError as error:
        raise SpatialSSRLError(
            f"Task {question.task!r} keeps something in meta that JSON cannot store ({error}); "
            "keep numbers, text, lists and dicts there."
        ) from error
    images = [torch.from_numpy(image.copy()) for image in question.images]
    return {"text": text, "images": images, "tensors": tensors}


def _unpacked(packed: dict[str, Any]) -> Groups:
    text, tensors = json.loads(packed["text"]), packed["tensors"]
    question = text["question"]
    question["choices"] = tuple(question["choices"])
    images = tuple(image.numpy() for image in packed["images"])
    return Groups(
        questions=(Question(images=images, **question),),
        rollouts=Rollouts(
            **{name: tensors[name] for name in _OF_ROLLOUTS},
            texts=tuple(text["texts"]),
            group_size=text["group_size"],
        ),
        verdicts=tuple(Verdict(**verdict) for verdict in text["verdicts"]),
        **{name: tensors[name] for name in _OF_GROUPS},
    )


def _own(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
