"""Weight-only int8 by MindSpore Golden Stick: a trained model as MindFormers' LlamaForCausalLM whose linear layers hold
int8 weights.

Golden Stick 1.4.1 names MindSpore 2.7.1.post1 as its only version; rounding weights works with 2.9.0 on CPU
(tests/tools/test_quantize.py). Running the result needs Ascend's kernels and was not tried here; its deployed form
could not even be built: 1.4.1 lacks an import there, and MindFormers 1.9.0's RtnQuantizer is an abstract class. `bash
build.sh --quantize` puts Golden Stick into a folder of its own, away from what it would downgrade.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mindrlhf_lite.checkpoint.open_checkpoint import open_checkpoint
from mindrlhf_lite.checkpoint.transform import write_mindformers
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.files.text_file import open_to_write, write_text
from mindrlhf_lite.models.mindformers import mindformers_problem, mindformers_settings

_HEAD = "lm_head"
_LENGTH = 8  # of the forward pass that the observers need
GOLDEN_STICK_FOLDER = ".golden_stick"  # in the environment's prefix; build.sh --quantize


@dataclass(frozen=True)
class Quantized:
    """Example: Quantized(num_layers=168, int8_bytes=357_826_560, other_bytes=545_000_000)"""

    num_layers: int  # linear layers with int8 weights
    int8_bytes: int
    other_bytes: int


def _find_golden_stick() -> None:
    """Raises ValueError, with the command, if Golden Stick or MindFormers is not installed."""
    folder = Path(sys.prefix) / GOLDEN_STICK_FOLDER
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    missing = [name for name in ("mindspore_gs", "mindformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed; run `bash build.sh --quantize`")


def quantize(model_dir: str | Path, output_dir: str | Path, keep: tuple[str, ...] = (_HEAD,)) -> Quantized:
    """Writes OUTPUT/model.ckpt (int8 weights with a float32 scale an output channel; the rest float32) and
    OUTPUT/model.yaml (MindFormers').

    Args:
        keep: linear layers whose names contain one of these stay as they are; a head that is tied to the embedding
            always does.

    Raises:
        ValueError: no Golden Stick, a model that MindFormers does not have, or the output exists.
    """
    source, output = open_checkpoint(model_dir), Path(output_dir)
    if source.config.tie_word_embeddings and _HEAD not in keep:
        keep = (*keep, _HEAD)
    if problem := mindformers_problem(source.config):
        raise UserError(f"{model_dir}: {problem}")
    if output.exists():
        raise UserError(f"{output}: exists already; give a new folder")
    _find_golden_stick()
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")  # rounding is host work, also where there are devices
    settings = mindformers_settings(source.config)
    with tempfile.TemporaryDirectory() as scratch, _without_their_logs(scratch):
        write_mindformers(source, Path(scratch) / "model.safetensors", dtype="F32")
        network = _load(settings, Path(scratch) / "model.safetensors")
        names = [name for name, _ in network.parameters_and_names()]
        # a tied head has no parameter of its own
        if unknown := [pattern for pattern in keep if pattern != _HEAD and not any(pattern in name for name in names)]:
            raise UserError(f"--keep {' '.join(unknown)}: no layer has that in its name; names are such as {names[-2]}")
        network = _round(network, keep)
        parameters = dict(network.parameters_and_names())
    _write(output, parameters, settings, keep)
    int8 = [parameter for parameter in parameters.values() if parameter.dtype == ms.int8]
    int8_bytes = sum(parameter.nbytes for parameter in int8)
    return Quantized(len(int8), int8_bytes, sum(parameter.nbytes for parameter in parameters.values()) - int8_bytes)


def _write(output: Path, parameters: dict[str, Any], settings: dict[str, Any], keep: tuple[str, ...]) -> None:
    """model.ckpt and model.yaml. Args: settings: of the model as it was, MindFormers'."""
    import mindspore as ms

    output.mkdir(parents=True)
    ms.save_checkpoint(
        [{"name": name, "data": parameter} for name, parameter in parameters.items()], str(output / "model.ckpt")
    )
    method = {
        "quant_method": "rtn",
        "weight_dtype": "int8",
        "activation_dtype": "None",
        "kvcache_dtype": "None",
        "outliers_suppression": "None",
    }
    quantized = {
        **settings,
        "quantization_config": {**method, "modules_to_not_convert": list(keep), "algorithm_args": {}},
    }
    write_text(
        output / "model.yaml",
        yaml.safe_dump({"model": {"model_config": quantized, "arch": {"type": "LlamaForCausalLM"}}}, sort_keys=False),
    )


@contextmanager
def _without_their_logs(folder: str) -> Iterator[None]:
    """MindFormers logs to stdout and into ./output from its import on: both go to a scratch folder."""
    os.environ.setdefault("LOG_MF_PATH", folder)
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # RoundToNearest gives way to PTQ, which has no LlamaForCausalLM
    with open_to_write(Path(folder) / "stdout") as sink, contextlib.redirect_stdout(sink):
        yield
    logging.raiseExceptions = False  # their handler keeps the closed file


def _load(settings: dict[str, Any], checkpoint: Path) -> Any:
    import mindspore as ms
    from mindformers import LlamaConfig, LlamaForCausalLM

    types = dict.fromkeys(
        ("compute_dtype", "layernorm_compute_type", "softmax_compute_type", "rotary_dtype", "param_init_type"),
        "float32",
    )
    values = {key: value for key, value in settings.items() if key != "type"}
    network = LlamaForCausalLM(
        LlamaConfig(
            batch_size=1,
            seq_length=_LENGTH,
            use_flash_attention=False,
            use_rope_slice=True,
            fused_rms_norm=False,
            **types,
            **values,
        )
    )
    ms.load_param_into_net(network, ms.load_checkpoint(str(checkpoint), format="safetensors"), strict_load=True)
    return network


def _round(network: Any, keep: tuple[str, ...]) -> Any:
    import mindspore as ms
    from mindspore_gs.common import BackendTarget
    from mindspore_gs.ptq import PTQConfig, PTQMode, RoundToNearest

    config = PTQConfig(
        mode=PTQMode.QUANTIZE, backend=BackendTarget.ASCEND, weight_quant_dtype=ms.int8, opname_blacklist=list(keep)
    )
    algorithm = RoundToNearest(config)
    network = algorithm.apply(network)
    network(
        ms.Tensor(np.ones((1, _LENGTH), np.int32))
    )  # the observers see each weight's extremes in a forward pass, whatever the tokens
    return algorithm.convert(network)
