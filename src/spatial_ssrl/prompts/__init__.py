"""Text around questions and how completions are read."""

from spatial_ssrl.prompts.parsing import last_boxed, split_think
from spatial_ssrl.prompts.templates import full_prompt, instruction, plain_answer, worked_answer

__all__ = [
    "full_prompt",
    "instruction",
    "last_boxed",
    "plain_answer",
    "split_think",
    "worked_answer",
]
