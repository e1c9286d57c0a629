"""Package metadata; exact versions of everything that was tested together stand in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

version = re.search(
    r'__version__ = "(.+)"',
    Path(__file__).with_name("mindrlhf_lite").joinpath("__init__.py").read_text(encoding="utf-8"),
).group(1)

setup(
    name="mindrlhf_lite",
    version=version,
    description="Reinforcement learning from verifiable rewards for language models on MindSpore",
    packages=find_packages(include=["mindrlhf_lite", "mindrlhf_lite.*"]),
    package_data={
        "mindrlhf_lite": ["presets/*.yaml"],
        "mindrlhf_lite.config.aliases": ["*.yaml"],
        "mindrlhf_lite.data": ["templates.yaml"],
        "mindrlhf_lite.watch": ["static/*", "static/uplot/*"],  # uPlot, with its licence
        "mindrlhf_lite.native": ["source/*", "built/*"],  # build.sh compiles them; so does the module native.build
    },
    python_requires=">=3.10,<3.13",
    install_requires=[
        "mindspore==2.9.0",
        "numpy<2",
        "pyyaml",
        "jinja2",  # chat templates
        "gguf",  # weights of llama.cpp
        "omegaconf>=2.4",  # verl's trees of settings
        "tokenizers>=0.22,<0.23",
        "transformers==4.57.1",
        "safetensors",
        "math-verify",  # everything that is no number
        "latex2sympy2_extended",  # its parser
        "sympy",  # what answers are compared in
        "mpmath",
        "tqdm",  # console
        "matplotlib",  # plots
        "tensorboardX",
        "tornado",  # the page to watch
    ],
    extras_require={
        # what the tests need; torch runs transformers' Qwen2, the model's independent witness
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "codespell",
            "types-PyYAML",
            "torch==2.13.0",
            "pyarrow==19.0.0",
            "reasoning-gym==0.1.25",
            "rank_bm25==0.2.2",
            "gymnasium==1.4.0",
        ],
        "parquet": ["pyarrow==19.0.0"],
        "reasoning_gym": ["reasoning-gym==0.1.25"],  # generated tasks with verifiers
        "search": ["rank_bm25==0.2.2"],  # the tool search
        "gymnasium": ["gymnasium==1.4.0"],  # its text environments
        "wandb": ["wandb"],  # trackers; where they do not fit MindSpore's packages: rl_config.tracker_python
        "swanlab": ["swanlab"],
        "mlflow": ["mlflow-skinny"],
        "trackio": ["trackio"],
        # only to check converted weights against MindFormers' own model; nothing imports it
        "mindformers": ["mindformers==1.9.0"],
        # build.sh --vllm makes the wheel: the registry's is for CUDA, this one has no kernels
        "vllm": ["vllm==0.11.0+empty", "torch==2.13.0"],
        # on Ascend (not run here): released for MindSpore 2.7.1.post1, see config/vllm_versions.py
        "vllm-ascend": ["vllm-mindspore==0.5.1"],
    },
    entry_points={
        "vllm.platform_plugins": ["mindrlhf_lite = mindrlhf_lite.rollout.vllm.plugin:platform"],
        "vllm.general_plugins": ["mindrlhf_lite_models = mindrlhf_lite.rollout.vllm.plugin:register_models"],
    },
)
