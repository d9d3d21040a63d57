"""A package outside the repository that brings one task, laid out as pip would leave it."""

from __future__ import annotations

from pathlib import Path

from spatial_ssrl.core import plugins

SOURCE = '''
"""A task that is not part of the library."""

import numpy as np

from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import TASKS, PretextTask


@TASKS.register("count_stripes")
class CountStripes(PretextTask):
    """Count the white stripes painted over a picture.

    Args:
        most: Largest number of stripes, in [2, 9].
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        count = int(rng.integers(1, self.most + 1))
        image = scene.image.copy()
        width = image.shape[1] // (2 * self.most)
        for stripe in range(count):
            image[:, 2 * stripe * width : (2 * stripe + 1) * width] = 255
        numbers = tuple(str(number) for number in range(1, self.most + 1))
        return Question(
            uid=self.uid(scene, count),
            task="count_stripes",
            images=(image,),
            prompt="<image>How many white stripes does the picture have? Answer such as 2.",
            answer=str(count),
            answer_kind="text",
            choices=numbers,
            chance=1 / self.most,
            meta={"count": count},
        )
'''


def write_plugin(folder: Path) -> None:
    """Write the module and the metadata of its distribution into `folder`."""
    (folder / "stripes_plugin.py").write_text(SOURCE)
    info = folder / "stripes_plugin-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes-plugin\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nstripes = stripes_plugin\n")
