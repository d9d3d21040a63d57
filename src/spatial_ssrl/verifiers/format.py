"""Format: did the completion think first, then box an answer?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.verifiers.base import VERIFIERS, Verifier

_TAG_SIGNS = re.compile(r"([<>/])")


@VERIFIERS.register("think_format")
class ThinkThenBoxed(Verifier):
    r"""Score 1 when the text is `<think>`...`</think>`...`\boxed{`...`}`... from its start.

    White space around `<`, `>` and `/` is ignored. Each `...` is any text, nothing included.

    References:
        Spatial-SSRL, arXiv:2510.27606, format reward.
    """

    @property
    def part_weights(self) -> Mapping[str, float]:
        """The whole reward is its one part."""
        return {"format": 1.0}

    def score(self, text: str, question: Question) -> Verdict:
        """Score the form of `text`, whatever the question; see `Verifier.score`."""
        right = float(has_think_format(text))
        return Verdict(reward=right, parts={"format": right})


def has_think_format(text: str) -> bool:
    """Return whether `text` thinks first, then boxes an answer, in time linear in its length."""
    # A pattern such as `\s*[<>/]\s*` takes quadratic time on long white space; splitting does not.
    first, *others = _TAG_SIGNS.split(text)
    if not others:
        return False
    pieces = [first.rstrip(), *(piece.strip() for piece in others)]
    pieces[-1] = others[-1].lstrip()
    packed = "".join(pieces)
    if not packed.startswith("<think>"):
        return False
    # The earliest match of each part leaves the most room for the rest.
    end = 0
    for part in ("<think>", "</think>", "\\boxed{", "}"):
        start = packed.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return True
