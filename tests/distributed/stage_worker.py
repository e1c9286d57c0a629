"""One rank of the invariance tests of runs on rows: trains, one after the other, what a JSON file lists, in one job."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.launch.program import DPO, REWARD_MODEL, SFT
from mindrlhf_lite.launch.stage import train_stage
from mindrlhf_lite.parallel.mesh import Mesh


def main():
    mesh, programs = Mesh(), {each.settings.program: each for each in (SFT, DPO, REWARD_MODEL)}
    for name, settings in json.loads(Path(sys.argv[1]).read_text()):
        program = programs[name]
        config = program.settings(**vars(build_config(settings)))
        problems = program.problems(config, mesh.world_size, False, True)
        assert not problems, problems
        train_stage(config, mesh)


if __name__ == "__main__":
    main()
