from __future__ import annotations

import logging

import pytest

from spatial_ssrl.policies.traits import Traits
from support.tiny_models import tiny_model, tiny_processor


@pytest.mark.parametrize("cap", [None, 50.0])
def test_models_that_cannot_share_prompts_say_so(
    cap: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spatial_ssrl")
    processor = tiny_processor()
    network = tiny_model(processor)
    network.config.text_config.attn_logit_softcapping = cap
    traits = Traits.of(network, processor, processor.tokenizer)
    assert (traits.sharing_limit > 0) is (cap is None)
    assert ("takes longer" in caplog.text) is (cap is not None)
