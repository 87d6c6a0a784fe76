"""Evaluate a model of a config by MMEngine's Runner.

python benchmarks/mmseg/run.py CONFIG [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from cosmos_eval.types import UsageError


def main() -> None:
    """Print the metrics that MMSegmentation computes, in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    arguments = parser.parse_args()
    if not Path(arguments.config).is_file():
        parser.error(f"{arguments.config}: no such file; configs are in benchmarks/mmseg")
    try:
        config = Config.fromfile(arguments.config)
        config.merge_from_dict(arguments.cfg_options)
        metrics = Runner.from_cfg(config).test()
    except UsageError as error:
        parser.error(str(error))
    print(" ".join(f"{name} {value:.2f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
