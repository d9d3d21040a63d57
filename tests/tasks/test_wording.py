from collections import Counter

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.tasks.wording import check_wording, one_of


def test_every_variant_is_drawn_alike() -> None:
    rng = rng_for(0, "wording")
    counts = Counter(one_of(("a", "b", "c"), rng) for _ in range(3000))
    assert counts.keys() == {"a", "b", "c"}
    # Four standard deviations of a binomial with 3000 draws of 1/3.
    assert all(abs(count - 1000) < 4 * 26 for count in counts.values())


def test_another_wording_is_refused_with_those_there_are() -> None:
    check_wording("varied")
    check_wording("terse")
    with pytest.raises(ConfigError, match='wording must be "varied" or "terse", got \'long\''):
        check_wording("long")
