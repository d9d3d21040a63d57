import pytest

from spatial_ssrl.images import SyntheticScenes


@pytest.fixture(scope="session")
def scenes():
    source = SyntheticScenes(count=60, size=64, seed=11)
    return [source.scene(index) for index in range(len(source))]
