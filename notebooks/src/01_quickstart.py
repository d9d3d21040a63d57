# %% [markdown]
# # Quick-start, piece by piece
#
# `spatial-ssrl quickstart` does all of this with one command and a larger budget. Here are its
# pieces: pictures, questions that a program can check, a cold start, and reinforcement learning
# from verified answers. Everything runs on a CPU, without a network, in a few minutes.

# %%
import logging
import os
import tempfile
import warnings
from functools import partial
from io import BytesIO
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import matplotlib.pyplot as plt
from IPython.display import Image as Shown
from lightning.pytorch import Trainer
from PIL import Image

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.data import HeldOutSettings, PretextDataModule
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.evaluation.statistics import accuracies, gains
from spatial_ssrl.images import CachedScenes, SyntheticScenes
from spatial_ssrl.policies import LoraSettings, SamplingSettings, TinyVLM
from spatial_ssrl.tasks import TASKS, DepthOrder
from spatial_ssrl.training import (
    MuonWithAdamW,
    RLModule,
    ScheduleSettings,
    SFTModule,
    UpdateSettings,
)
from spatial_ssrl.training.callbacks import QuestionRecords
from spatial_ssrl.verifiers import WeightedSum

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# Automatic checks of this notebook run it with a small share of its steps.
BUDGET = float(os.environ.get("SPATIAL_SSRL_NOTEBOOK_BUDGET", "1"))
FOLDER = Path(tempfile.mkdtemp())


def show(items: list[SheetItem], columns: int = 5) -> Shown:
    """Draw questions and show them, small enough for a notebook."""
    sheet = Image.open(draw_sheet(items, FOLDER / "sheet.png", columns))
    sheet.thumbnail((1100, 1100))
    data = BytesIO()
    sheet.save(data, "JPEG", quality=80)
    return Shown(data=data.getvalue())


# %% [markdown]
# ## Pictures
#
# Drawn scenes come with exact depth, which two of the five tasks need. Your own photos work too:
# `ImageFolder("photos")`.

# %%
scenes = SyntheticScenes(size=64)
fig, axes = plt.subplots(2, 6, figsize=(9, 3.1), dpi=60)
for column in range(6):
    scene = scenes.scene(column)
    axes[0, column].imshow(scene.image)
    axes[1, column].imshow(1 / scene.depth, cmap="magma")  # Near is bright.
for axis in axes.flat:
    axis.axis("off")
fig.tight_layout(pad=0.2)
plt.show()

# %% [markdown]
# ## Questions
#
# A task makes one question with one right answer from a picture. No human and no other model is
# asked: the program cut, turned or measured the picture, so it knows.

# %%
tasks = [entry.cls() for entry in TASKS.entries()]
show([SheetItem(task.make(scenes.scene(7), rng_for(0, n))) for n, task in enumerate(tasks)])

# %% [markdown]
# ## Rewards
#
# A verifier reads what a policy wrote. The answer counts 0.9 and the form 0.1: reasoning inside
# `<think>`, then the answer inside `\boxed{}`.

# %%
verifier = WeightedSum()
question = DepthOrder().make(scenes.scene(7), rng_for(0, 1))
for text in (
    f"<think>Compare the depths.</think>\\boxed{{{question.answer}}}",
    f"\\boxed{{{question.answer}}}",
    "<think>Who knows?</think>\\boxed{9,9,9}",
    question.answer,
):
    print(f"{verifier.score(text, question).reward:.1f}  {text}")

# %% [markdown]
# ## Cold start
#
# A policy of a million parameters begins from nothing, so it first has to see some answers. One
# task is enough here: which of two marked regions is nearer? The cold start stops early, well
# before the task is solved. Held-out scenes have numbers that training never reaches.

# %%
data = PretextDataModule(
    images=[CachedScenes(SyntheticScenes(round(2048 * BUDGET) + 64, size=64), FOLDER / "scenes")],
    held_out=[SyntheticScenes(256, size=64, first=1_000_000)],
    tasks=[DepthOrder(count=2, wording="terse")],
    batch_size=48,
    evaluation=HeldOutSettings(test_questions=round(980 * BUDGET) + 20, batch_size=100),
)


def train(module: SFTModule | RLModule, steps: int) -> list:
    """Train a module, then return its answers to the held-out questions."""
    records = QuestionRecords()
    trainer = Trainer(
        max_steps=max(2, round(steps * BUDGET)), accelerator="cpu", default_root_dir=FOLDER,
        callbacks=[records], logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return records.records


def tell(records: list) -> None:
    """Print the accuracy of each task."""
    for task, accuracy in accuracies(records).items():
        print(f"{task:15} {accuracy.accuracy:6.1%} of {accuracy.n} held-out questions")


policy = TinyVLM()
cold_start = SFTModule(
    policy,
    answers="plain",
    sampling=SamplingSettings(max_new_tokens=12),
    optimizer=partial(MuonWithAdamW, lr=1.5e-3, adam_lr=3e-3),
    schedule=ScheduleSettings("linear", warmup_steps=10),
    update=UpdateSettings(micro_batch_size=48),
)
before = train(cold_start, steps=60)
policy.save(FOLDER / "policy")
tell(before)

# %% [markdown]
# ## Reinforcement learning
#
# Now nobody shows answers. The policy answers each question eight times; completions that did
# better than the others of their group become more likely. Only LoRA adapters are trained.

# %%
rl = RLModule(
    TinyVLM(model=FOLDER / "policy", lora=LoraSettings(rank=32, alpha=32)),
    GRPO(),
    group_size=8,
    sampling=SamplingSettings(max_new_tokens=12),
    optimizer=partial(MuonWithAdamW, lr=2e-3),
    schedule=ScheduleSettings("linear", warmup_steps=5, final=0.1),
    update=UpdateSettings(micro_batch_size=48),
)
after = train(rl, steps=300)
tell(after)

# %% [markdown]
# ## What was gained
#
# Both policies answered the same questions, so their difference is measured question by question.
# The budget is small, so the gain is too, and the interval says how far to trust it; the
# quick-start command has more steps and all five tasks.

# %%
for task, gain in gains(before, after).items():
    low, high = gain.ci95
    print(f"{task:15} {gain.points:+5.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")

# %%
asked = data.held_out_questions("test")
by_uid = {record.uid: record for record in after}
items = []
for index in range(5):
    record = by_uid[asked[index].uid]
    items.append(
        SheetItem(asked[index], (record.completion,), "right" if record.correct else "wrong")
    )
show(items)
