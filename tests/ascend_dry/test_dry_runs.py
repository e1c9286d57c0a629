"""Compiled for Ascend without one, by MindSpore's dry run: whole runs, memory against the plan, kernels by graph.

python tests/ascend_dry/test_dry_runs.py        writes kernels*.json anew; look at what has changed
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from distributed.jobs import VERIFIERS
from distributed.small_runs import MAIN, QUICKSTART_MODEL, arguments, save_first_layers
from helpers import ROOT, read_jsonl, run

from mindrlhf_lite.ascend.dry_run import compile_step, with_layers
from mindrlhf_lite.ascend.stand_ins import environment
from mindrlhf_lite.config.memory_plan import memory_plan
from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.estimate import kernels
from mindrlhf_lite.launch.command_line import parse_command_line

HERE = Path(__file__).parent
SNAPSHOTS = {"quickstart": HERE / "kernels.json", "0_5b": HERE / "kernels_0_5b.json"}
CONFIG = ROOT / "examples/qwen_grpo/grpo_config.yaml"
ASCEND = "--context.device_target=Ascend"
MOST_SLOW_STARTS, OF_TENSOR_RANKS = 14, 28  # kernels of a token that aclop starts

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and binutils for CANN's stand-ins")


def simulate(rank, num_ranks, data, folder, *extra):
    """main.py on one simulated rank."""
    variables = environment(rank, num_ranks)
    variables["PYTHONPATH"] += f":{VERIFIERS}"
    command = [sys.executable, MAIN, *arguments(data, folder / "run", ASCEND, *extra)]
    folder.mkdir(exist_ok=True)
    return run(command, cwd=folder, timeout=900, **variables)


@pytest.mark.parametrize("last_step", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_whole_run_with_everything_on(data, tmp_path, last_step):
    """bfloat16, several updates, swapping, the optimizer in parts, recomputation, filters, an evaluation, checkpoints,
    the export, recorded experience, dumps; with two steps, the second one from a checkpoint.
    """
    settings = (
        "--rl_config.swap=true",
        "--rl_config.reshard_mem_opt_level=1",
        "--rl_config.batch_size=8",
        "--rl_config.num_iterations=2",
        "--actor_config.compute_dtype=bfloat16",
        "--actor_config.optimizer.opt_offload=true",
        "--actor_config.optimizer.opt_offload_bucket_mb=1",
        "--rl_config.save_hf_dtype=bfloat16",
        "--actor_config.recompute_config.recompute=true",
        "--generate_config.sampling_config.top_k=5",
        "--rl_config.rollout_correction=token_truncate",
        f"--rl_config.eval_dataset_file={data / 'held_out.mindrecord'}",
        "--rl_config.save_ckpt_interval=1",
        f"--rl_config.save_data_file={tmp_path}/recorded",
        "--msprobe_config.msprobe=true",
    )
    for steps in range(1, last_step + 1):
        resume = ["--resume_training"] if steps > 1 else []
        result = simulate(0, 1, data, tmp_path, f"--rl_config.max_steps={steps}", *settings, *resume)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert [row["step"] for row in read_jsonl(tmp_path / "run/metrics.jsonl")] == [*range(last_step + 1)]
    assert (tmp_path / "run/hf/model.safetensors").is_file() and (
        tmp_path / f"run/checkpoints/step_{last_step}"
    ).is_dir()
    assert list(tmp_path.glob("recorded*"))


@pytest.mark.full  # 150 processor seconds; the smallest model is compiled on the first of eight ranks by default
@pytest.mark.parametrize(
    ("rank", "ranks", "actor", "reference", "options"),
    [
        (
            *(0, 8, (1, 2, 2, 2), (2, 2, 1, 2)),
            (
                "--actor_config.recompute_config.select_recompute=true",
                "--actor_config.parallel_config.use_seq_parallel=true",
                "--rl_config.swap=true",
                "--actor_config.compute_dtype=bfloat16",
            ),
        ),
        (
            *(3, 4, (2, 2, 1, 1), (1, 2, 2, 1)),
            ("--actor_config.enable_parallel_optimizer=true", "--generate_config.compute_dtype=bfloat16"),
        ),
    ],
)
def test_whole_runs_on_a_rank_of_several(data, tmp_path, rank, ranks, actor, reference, options):
    two_layers = save_first_layers(2, tmp_path / "two_layers")  # one in every stage

    def degrees(role, values):
        names = ("data_parallel", "model_parallel", "pipeline_stage", "context_parallel")
        return [f"--{role}.parallel_config.{name}={value}" for name, value in zip(names, values)]

    result = simulate(
        rank,
        ranks,
        data,
        tmp_path,
        "--rl_config.max_steps=1",  # a second one compiles nothing
        "--actor_checkpoint_path",
        two_layers,
        *degrees("actor_config", actor),
        *degrees("ref_config", reference),
        *degrees("generate_config", (2, 2, 1, ranks // 4)),
        "--actor_config.parallel_config.micro_batch_num=2",
        "--rl_config.save_hf_model=false",  # made of all ranks' shares
        *options,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def settings_of(model, devices, *more):
    file = ROOT / f"model_configs/qwen2_5_{model}.yaml"
    words = ["--config", str(CONFIG), "--model_config", str(file), "--dry_run", "--devices", str(devices), ASCEND]
    words.append("--rl_config.swap=true")  # the plan's phases are what each has in memory then
    return parse_command_line([*words, *more]).config, read_model_file(str(file)).shape


def compiled_near_plan(model, *more):
    """Two layers of the model, on the first of eight devices: memory of every phase at most 15 % above the plan and a
    quarter below it, parameters where their phase has them, a kernel for every operator. Returns the kernels by graph.
    """
    config, shape = settings_of(model, 8, *more)
    config, shape = with_layers(shape, config, 2)
    compiled, planned = compile_step(config, shape, 0, 8), memory_plan(config, shape, 8).phases
    assert compiled.misplaced == [] and compiled.backed_off == []
    step = {"step_0"} if config.actor_config.optimizer.opt_offload else set()
    assert compiled.peaks.keys() == {"reshard", "generate", "reference", "update", *step}
    # a token's: none in a layer
    most = OF_TENSOR_RANKS if config.generate_config.parallel_config.model_parallel > 1 else MOST_SLOW_STARTS
    assert compiled.slow_starts["rollout_native_graphs_Decode_construct"].total() <= most
    # tensor ranks pass a few numbers a slot, twice, and no logits
    assert compiled.kernels["rollout_native_graphs_Decode_construct"]["AllGather"] <= 2
    for phase, needed in compiled.peaks.items():
        assert 0.75 * planned[phase] <= needed <= 1.15 * planned[phase], (phase, needed / planned[phase])
    return by_name(compiled.kernels)


def by_name(kernels):
    return {name: dict(sorted(counts.items())) for name, counts in sorted(kernels.items())}


@pytest.mark.full  # by default the smallest model's compilation is compared with its plan, too
@pytest.mark.parametrize("model", ["7b", "32b"])
def test_the_plan_is_near_what_is_compiled(model):
    compiled_near_plan(model)


@pytest.mark.full
def test_adapters_take_what_is_planned_and_start_as_many_kernels_as_estimated():
    with_them = compiled_near_plan("0_5b", "--actor_config.lora.rank=16")
    without = json.loads(SNAPSHOTS["0_5b"].read_text())
    more = {name: sum(counts.values()) - sum(without.get(name, {}).values()) for name, counts in with_them.items()}
    assert more["rollout_native_graphs_Decode_construct"] == round(2 * 7 * kernels.ASCEND.adapted_forward)  # two layers
    assert more["scoring_stages__LayerForward_construct"] == round(7 * kernels.ASCEND.adapted_forward)
    assert more["learner_gradients__InPlaceLayerBackward_construct"] == round(7 * kernels.ASCEND.adapted_backward)


def test_the_plan_and_the_kernels_of_the_smallest_model():
    """A change of the kernels is a change of what Ascend would run: look at it, then write the file anew."""
    assert compiled_near_plan("0_5b") == json.loads(SNAPSHOTS["0_5b"].read_text())


def kernels_of_the_quickstart():
    words = ["--config", ROOT / "examples/quickstart/grpo_config.yaml", "--model_config", QUICKSTART_MODEL]
    words += [
        "--actor_config.load=",
        "--rl_config.eval_interval=0",
        "--rl_config.batch_size=64",
        "--rl_config.swap=true",
        "--actor_config.compute_dtype=bfloat16",
        ASCEND,
        "--dry_run",
    ]
    config = parse_command_line([str(word) for word in words]).config
    compiled = compile_step(config, read_model_file(str(QUICKSTART_MODEL)).shape, 0, 1)
    assert compiled.backed_off == [] and compiled.misplaced == []
    return by_name(compiled.kernels)


@pytest.mark.full
def test_kernels_of_the_quickstart():
    assert kernels_of_the_quickstart() == json.loads(SNAPSHOTS["quickstart"].read_text())


if __name__ == "__main__":
    for name, kernels in (("quickstart", kernels_of_the_quickstart()), ("0_5b", compiled_near_plan("0_5b"))):
        SNAPSHOTS[name].write_text(json.dumps(kernels, indent=1) + "\n")
