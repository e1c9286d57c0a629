"""A model to convert."""

from dataclasses import replace

from helpers import TINY, random_weights, run_python

from mindrlhf_lite.models.ckpt_format import write_ckpt
from mindrlhf_lite.models.mindformers import mindformers_name
from mindrlhf_lite.models.tensor_files import TensorToWrite

SHAPE = replace(TINY, num_hidden_layers=4)


def convert(*arguments):
    return run_python("tools/convert_weight.py", *arguments)


def broken_ckpt(path, **changes):
    """SHAPE's checkpoint with tensors replaced, or left out where the value is None, or added."""
    tensors = {mindformers_name(name): values for name, values in random_weights(SHAPE).items()}
    tensors = {name: values for name, values in {**tensors, **changes}.items() if values is not None}
    write_ckpt(
        path,
        [
            TensorToWrite(name, "F32", values.shape, lambda start, stop, values=values: values[start:stop])
            for name, values in tensors.items()
        ],
    )
