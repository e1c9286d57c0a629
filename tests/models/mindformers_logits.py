"""Run by test_mindformers.py in a process of its own: MindFormers' LlamaForCausalLM loads a checkpoint and writes its
logits.

Usage: mindformers_logits.py MODEL.yaml CHECKPOINT ids.npy logits.npy
"""

import sys

import mindspore as ms
import numpy as np
import yaml
from mindformers import LlamaConfig, LlamaForCausalLM

config_path, checkpoint, ids_path, output = sys.argv[1:]
ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
ids = np.load(ids_path)
settings = yaml.safe_load(open(config_path))["model"]["model_config"]
kind = "float32"
model = LlamaForCausalLM(
    LlamaConfig(
        **{key: value for key, value in settings.items() if key != "type"},
        batch_size=ids.shape[0],
        seq_length=ids.shape[1],
        # what CPU has kernels for
        use_flash_attention=False,
        use_rope_slice=True,
        fused_rms_norm=False,
        compute_dtype=kind,
        layernorm_compute_type=kind,
        softmax_compute_type=kind,
        rotary_dtype=kind,
        param_init_type=kind,
    )
)
missing, unused = ms.load_param_into_net(
    model, ms.load_checkpoint(checkpoint, format=checkpoint.rpartition(".")[2]), strict_load=True
)
assert not missing and not unused, (missing, unused)
model.set_train(False)
logits = model(ms.Tensor(ids, ms.int32))
np.save(output, (logits[0] if isinstance(logits, tuple) else logits).asnumpy().reshape(*ids.shape, -1))
