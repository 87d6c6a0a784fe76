"""A run of the trainer in this process: eight scenes, and what goes with them."""

import pytest

from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import write_layouts
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.distributed import World
from cosmos_core.engine.trainer import Setting
from cosmos_core.plots.views import Inverse


@pytest.fixture(scope="session")
def scene_shards(tmp_path_factory):
    """Eight scenes as a specification of shards."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    write_layouts(root, split=TRAIN, count=8, layouts=["shards"])
    return str(root / "shards" / "*.tar")


@pytest.fixture(scope="session")
def setting_of_session(tmp_path_factory):
    """The setting of a run of one process, for fixtures that serve several tests."""
    tokenizer = scenes_tokenizer()
    return Setting(
        tokenizer=tokenizer,
        inverse=Inverse((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), tokenizer.decode),
        output=tmp_path_factory.mktemp("session") / "run",
        command="cosmos-train scenes_cosmos",
        world=World(),
    )


@pytest.fixture
def setting(setting_of_session, tmp_path):
    """The setting of a run of one process in the folder `run`."""
    return setting_of_session._replace(output=tmp_path / "run")
