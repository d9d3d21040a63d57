# %% [markdown]
# # Adding a task of your own
#
# A task is one class that makes one question from one picture. This notebook writes one, looks at
# its questions, trains a small policy on it for a minute, and packs it as a plug-in.

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

import numpy as np
from IPython.display import Image as Shown
from lightning.pytorch import Trainer
from PIL import Image

from spatial_ssrl.core.errors import RegistryError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.data import HeldOutSettings, PretextDataModule
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.evaluation.statistics import accuracies
from spatial_ssrl.images import CachedScenes, SyntheticScenes
from spatial_ssrl.policies import SamplingSettings, TinyVLM
from spatial_ssrl.tasks import TASKS, PretextTask
from spatial_ssrl.training import MuonWithAdamW, ScheduleSettings, SFTModule, UpdateSettings
from spatial_ssrl.training.callbacks import QuestionRecords

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
# Automatic checks of this notebook run it with a small share of its steps.
BUDGET = float(os.environ.get("SPATIAL_SSRL_NOTEBOOK_BUDGET", "1"))
FOLDER = Path(tempfile.mkdtemp())


# %% [markdown]
# ## The class
#
# The key in the decorator is what data files and reports call the task; the class name is what
# YAML calls it. Every random choice comes from `rng`, so that a question can be made again.


# %%
@TASKS.register("turned_picture")
class TurnedPicture(PretextTask):
    """Say how far a picture was turned.

    Args:
        contrast: Least standard deviation of the picture, in grey levels.
    """

    def __init__(self, contrast: float = 8.0) -> None:
        self.contrast = contrast

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        if scene.image.std() < self.contrast:
            raise SceneRejected("the picture is almost of one colour")
        turns = int(rng.integers(4))
        return Question(
            uid=self.uid(scene, turns),
            task="turned_picture",
            images=(np.rot90(scene.image, -turns).copy(),),
            prompt="<image>How far was the picture turned, clockwise? A. Not at all B. A quarter "
            "C. Half way D. Three quarters Answer with one letter, such as C.",
            answer="ABCD"[turns],
            answer_kind="choice",
            choices=("A", "B", "C", "D"),
            chance=0.25,
            meta={"quarter_turns": turns},
        )


# %% [markdown]
# Registering proves that the class can be used from YAML: it is public, concrete, and its name is
# free. A name that nobody registered is answered with close matches.

# %%
print(TASKS.get("turned_picture"), "=", TASKS.get("TurnedPicture"))
try:
    TASKS.get("turned_pictures")
except RegistryError as error:
    print(error)

# %% [markdown]
# ## Its questions

# %%
scenes = SyntheticScenes(size=64)
task = TurnedPicture()
questions = [task.make(scenes.scene(n), rng_for(0, n)) for n in range(5)]
sheet = Image.open(draw_sheet([SheetItem(q) for q in questions], FOLDER / "sheet.png", columns=5))
sheet.thumbnail((1100, 1100))
data = BytesIO()
sheet.save(data, "JPEG", quality=80)
Shown(data=data.getvalue())

# %% [markdown]
# A picture that would make an unfair question is refused, with a reason that the data module
# counts.

# %%
try:
    task.make(Scene(np.full((64, 64, 3), 90, np.uint8), "grey"), rng_for(0))
except SceneRejected as refusal:
    print("refused:", refusal)

# %% [markdown]
# ## A policy learns it
#
# Supervised, from nothing, on drawn scenes; tested on scenes it has never seen.

# %%
module = SFTModule(
    TinyVLM(),
    answers="plain",
    sampling=SamplingSettings(max_new_tokens=12),
    optimizer=partial(MuonWithAdamW, lr=1.5e-3, adam_lr=3e-3),
    schedule=ScheduleSettings("linear", warmup_steps=10),
    update=UpdateSettings(micro_batch_size=48),
)
questions = PretextDataModule(
    images=[CachedScenes(SyntheticScenes(round(2048 * BUDGET) + 64, size=64), FOLDER / "scenes")],
    held_out=[SyntheticScenes(256, size=64, first=1_000_000)],
    tasks=[task],
    batch_size=48,
    evaluation=HeldOutSettings(test_questions=round(280 * BUDGET) + 20, batch_size=100),
)
answers = QuestionRecords()
trainer = Trainer(
    max_steps=max(2, round(200 * BUDGET)), accelerator="cpu", default_root_dir=FOLDER,
    callbacks=[answers], logger=False, enable_checkpointing=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, datamodule=questions)
trainer.test(module, datamodule=questions, verbose=False)
accuracy = accuracies(answers.records)["turned_picture"]
print(f"{accuracy.accuracy:.0%} of {accuracy.n} held-out questions right; guessing gives 25 %")

# %% [markdown]
# ## As a plug-in
#
# Put the class in a module of a package of yours, and name the module in its `pyproject.toml`:
#
# ```toml
# [project.entry-points."spatial_ssrl.plugins"]
# my_tasks = "my_package.tasks"
# ```
#
# Once that package is installed, `spatial-ssrl list tasks` shows the task with the name of your
# package beside it, `spatial-ssrl preview --tasks TurnedPicture` draws it, and any config can say
#
# ```yaml
# tasks: [FlippedPatch, TurnedPicture]
# ```
