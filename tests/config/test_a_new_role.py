"""A role that is a row and a section is checked as the others are."""

from distributed.fourth_role_worker import ExaminedConfig

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.sections.parallel import StagedParallelConfig
from mindrlhf_lite.config.sections.reference import RefConfig
from mindrlhf_lite.config.validate import find_problems


def problems_of(data, examiner):
    settings = {
        "actor_config.load": str(data / "model"),
        "rl_config.dataset_file": str(data / "train.mindrecord"),
        "rl_config.chunk_size": 4,
        "rl_config.seq_length": 48,
        "generate_config.max_prompt_length": 8,
        "generate_config.sampling_config.max_tokens": 24,
    }
    config = ExaminedConfig(**vars(build_config(settings)), examiner_config=examiner)
    return [problem for problem in find_problems(config, 2) if "examiner" in problem]


def test_its_degrees_and_its_folder(data, quickstart_model):
    assert problems_of(data, RefConfig(load=str(quickstart_model))) == []
    (problem,) = problems_of(data, RefConfig(load="/nowhere"))
    assert problem.startswith("examiner_config.load='/nowhere'")
    degrees = StagedParallelConfig(data_parallel=5, model_parallel=3)
    (problem,) = problems_of(data, RefConfig(load=str(quickstart_model), parallel_config=degrees))
    assert problem.startswith("examiner_config.parallel_config: ")
