"""run_grpo_multinode.sh: two nodes with names and networks of their own give what one host gives; mistakes are
named.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid

import pytest
from helpers import ROOT, clean_environment, make_sums, read_jsonl, run
from jobs import end_processes_of, ranks_of
from reliability.shim import built

from mindrlhf_lite.job.ports import free_port

SCRIPT = ROOT / "examples/qwen_grpo/run_grpo_multinode.sh"
QUICKSTART = ROOT / "examples/quickstart/model"
SETTINGS = ("--rl_config.max_steps=2", "--rl_config.eval_max_prompts=16")


class Namespaces:
    """Two network namespaces joined by a cable, deleted at the end."""

    def __init__(self):
        self.names = [f"mrl{os.getpid()}n{node}" for node in range(2)]

    def __enter__(self):
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip(
            "link",
            "add",
            "node0",
            "netns",
            self.names[0],
            "type",
            "veth",
            "peer",
            "name",
            "node1",
            "netns",
            self.names[1],
        )
        for node, name in enumerate(self.names):
            self._ip("-n", name, "addr", "add", f"10.77.0.{node + 1}/24", "dev", f"node{node}")
            for link in (f"node{node}", "lo"):
                self._ip("-n", name, "link", "set", link, "up")
        return self

    def __exit__(self, *error):
        for name in self.names:
            self._ip("netns", "del", name)

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def command(self, node, *script):
        """A host name of its own, too: ranks of one host would share memory."""
        return [
            "ip",
            "netns",
            "exec",
            self.names[node],
            "unshare",
            "--uts",
            "bash",
            "-c",
            f"hostname node{node} && bash {' '.join(map(str, script))}",
        ]


def namespaces_are_allowed() -> bool:
    name = f"mrl{os.getpid()}probe"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made and os.geteuid() == 0


IN_NAMESPACES = pytest.mark.skipif(not namespaces_are_allowed(), reason="needs root, iproute2 and network namespaces")


@pytest.mark.full
@IN_NAMESPACES
@pytest.mark.parametrize("jump", [0, 86400, -86400])
def test_two_nodes_give_what_one_host_gives(tmp_path, jump):
    """Also where the clock of the second one jumps by so many seconds."""
    clock = {"LD_PRELOAD": str(built(tmp_path)), "CLOCK_JUMP": str(jump), "CLOCK_AFTER": "15"} if jump else {}
    one = run(
        ["bash", ROOT / "examples/qwen_grpo/run_grpo.sh", *SETTINGS, f"--rl_config.output_dir={tmp_path}/one"],
        LOG_DIR=str(tmp_path / "one_log"),
    )
    assert one.returncode == 0, one.stdout[-2000:] + one.stderr[-2000:]
    script = (SCRIPT, *SETTINGS, f"--rl_config.output_dir={tmp_path}/two")
    common = {"NNODES": "2", "NPUS_PER_NODE": "2", "MASTER_ADDR": "10.77.0.1"}
    with Namespaces() as nodes:
        jobs, mark = [], uuid.uuid4().hex
        for node in range(2):
            environment = clean_environment(
                **common,
                **(clock if node else {}),
                NODE_RANK=str(node),
                LOG_DIR=str(tmp_path / f"log{node}"),
                TEST_JOB=mark,
            )
            log = (tmp_path / f"node{node}.log").open("w")
            jobs.append(
                subprocess.Popen(
                    nodes.command(node, *script), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
        try:
            codes = [job.wait(timeout=300) for job in jobs]
        finally:
            end_processes_of(mark)
    assert codes == [0, 0], (tmp_path / "node0.log").read_text()[-3000:]
    assert sorted(path.name for path in tmp_path.glob("log*/worker_*")) == [f"worker_{rank}.log" for rank in range(4)]
    rows = (
        [row for row in read_jsonl(tmp_path / name / "metrics.jsonl") if row["step"] > 0] for name in ("one", "two")
    )
    for here, there in zip(*rows, strict=True):
        for key in ("loss/total", "reward/mean", "policy/grad_norm", "completion/mean_tokens"):
            assert there[key] == pytest.approx(here[key], rel=1e-5, abs=1e-7), key
    for step in (1, 2):
        name = f"completions/step_{step:06d}.jsonl"
        assert [row["completion"] for row in read_jsonl(tmp_path / "one" / name)] == [
            row["completion"] for row in read_jsonl(tmp_path / "two" / name)
        ]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1"}, "NODE_RANK=2: must be below NNODES=2"),
        ({"NNODES": "2"}, "MASTER_ADDR=127.0.0.1: other nodes cannot reach it"),
        ({"NPUS_PER_NODE": "eight"}, "NPUS_PER_NODE=eight: a whole number is needed"),
        ({"NNODES": "0"}, "NNODES=0"),
        ({"DEVICE": "GPU"}, "DEVICE=GPU: CPU or Ascend"),
        ({"DATASET": "x"}, "DATASET needs MODEL"),
    ],
)
def test_mistakes_are_named_before_anything_starts(environment, message):
    result = run(["bash", SCRIPT], **environment)
    assert result.returncode == 2 and message in result.stderr and "usage:" in result.stderr


def test_without_variables_it_has_the_ranks_that_its_example_needs():
    """The mistake is the only problem: the strategies of four_ranks.yaml fit."""
    result = run(["bash", SCRIPT, "--rl_config.beta=high"])
    assert result.returncode == 2 and "1 problem(s) in the configuration" in result.stderr, result.stderr


class TwoNodes:
    """docs/guides/multinode.md, "Try it on one host", with one rank a node; ended at the end of the block.

    Args: apart: where the nodes have networks of their own.
    """

    def __init__(self, folder, *settings, apart=None):
        make_sums(QUICKSTART, folder / "train.mindrecord", 20)
        self.mark, self.logs = uuid.uuid4().hex, [folder / f"node{node}.log" for node in range(2)]
        common = {"NNODES": "2", "NPUS_PER_NODE": "1", "MASTER_PORT": str(free_port())}
        common |= {"MASTER_ADDR": "10.77.0.1"} if apart else {"ONE_HOST": "1"}
        common |= {"MODEL": str(QUICKSTART), "DATASET": str(folder / "train.mindrecord"), "TEST_JOB": self.mark}
        common |= {"CONFIG": str(ROOT / "examples/quickstart/grpo_config.yaml")}
        small = "--rl_config.chunk_size=4 --rl_config.num_generations=4 --generate_config.max_num_seqs=16"
        more = f"--rl_config.output_dir={folder}/out --rl_config.eval_interval=0 --monitor_config.plots=false"
        script = [str(SCRIPT), *small.split(), *more.split(), "--rl_config.save_ckpt_interval=0", *settings]
        self.processes = []
        for node, log in enumerate(self.logs):
            environment = clean_environment(**common, NODE_RANK=str(node), LOG_DIR=str(folder / f"log{node}"))
            streams = {"stdout": log.open("w"), "stderr": subprocess.STDOUT}
            command = apart.command(node, *script) if apart else ["bash", *script]
            self.processes.append(subprocess.Popen(command, cwd=folder, env=environment, **streams))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end_processes_of(self.mark)

    def wait(self, seconds):
        return [process.wait(timeout=seconds) for process in self.processes]

    def text(self):
        return "".join(log.read_text() for log in self.logs)


@pytest.mark.full  # the test below has both nodes train, too
def test_two_nodes_on_one_host_share_a_scheduler(tmp_path):
    with TwoNodes(tmp_path, "--rl_config.max_steps=1") as nodes:
        codes = nodes.wait(300)
    text = nodes.text()
    assert codes == [0, 0] and "Traceback" not in text and (tmp_path / "out/summary.json").is_file(), text[-3000:]


@contextlib.contextmanager
def one_network():
    yield None


@pytest.mark.parametrize("networks", [one_network, pytest.param(Namespaces, marks=[pytest.mark.full, IN_NAMESPACES])])
def test_a_killed_rank_of_another_node_is_named_on_both(tmp_path, networks):
    with networks() as apart, TwoNodes(tmp_path, "--rl_config.max_steps=1000", apart=apart) as nodes:
        deadline = time.monotonic() + 200
        while not (tmp_path / "out/completions/step_000002.jsonl").is_file():
            assert time.monotonic() < deadline and all(p.poll() is None for p in nodes.processes), nodes.text()[-3000:]
            time.sleep(0.1)
        os.kill(ranks_of(nodes.mark)[1], signal.SIGKILL)
        killed = time.monotonic()
        assert nodes.wait(60) == [1, 1], nodes.text()[-3000:]
        assert time.monotonic() - killed < 10
        for log in nodes.logs:
            assert re.search(r"rank 1 was killed by signal 9 \(SIGKILL\) in step \d+, \w+", log.read_text()), (
                nodes.text()
            )
        assert not ranks_of(nodes.mark)


def test_an_interface_that_is_not_there_is_said():
    result = run(["bash", SCRIPT], SOCKET_IFNAME="eth77")
    assert result.returncode == 2 and "SOCKET_IFNAME=eth77: no such interface here; there are" in result.stderr


def test_help_has_an_example():
    assert "NODE_RANK=1 bash examples/qwen_grpo/run_grpo_multinode.sh" in run(["bash", SCRIPT, "--help"]).stdout
