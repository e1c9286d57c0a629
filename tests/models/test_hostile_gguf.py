"""GGUF files that lie about what is in them, or are cut or changed."""

import struct
import tracemalloc
from dataclasses import replace

import pytest
from gguf import GGUFValueType
from gguf_files import SHAPE, write_gguf
from helpers import random_weights, run_python

from mindrlhf_lite.checkpoint.open_checkpoint import open_gguf
from mindrlhf_lite.checkpoint.transform import transform
from mindrlhf_lite.models.gguf_file import GgufFile

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are also infinite scales


def header(*parts):
    return b"GGUF" + b"".join(parts)


def number(form, value):
    return struct.pack(f"<{form}", value)


def of_setting(kind, *parts):
    """A header of one setting, a, of that kind."""
    start = number("I", 3), number("Q", 0), number("Q", 1), number("Q", 1), b"a", number("I", kind)
    return header(*start, *parts, bytes(40))


HUGE = (1 << 60) + 1

HOSTILE = {
    "empty": b"",
    "not gguf": b"PK\x03\x04" + bytes(100),
    "version": header(number("I", 9), bytes(40)),
    "big endian": header(struct.pack(">I", 3), bytes(40)),
    "settings": header(number("I", 3), number("Q", 0), number("Q", HUGE), bytes(40)),
    "tensors": header(number("I", 3), number("Q", HUGE), number("Q", 0), bytes(40)),
    "key": header(number("I", 3), number("Q", 0), number("Q", 1), number("Q", HUGE), bytes(40)),
    "text": of_setting(8, number("Q", HUGE)),
    "list": of_setting(9, number("I", 4), number("Q", HUGE)),
    "list of texts": of_setting(9, number("I", 8), number("Q", HUGE)),
    "list of lists": of_setting(9, number("I", 9), number("Q", 2)),
    "type": of_setting(77),
    "dimensions": header(
        number("I", 3), number("Q", 1), number("Q", 0), number("Q", 1), b"t", number("I", 1 << 30), bytes(40)
    ),
    "shape": header(
        number("I", 3),
        number("Q", 1),
        number("Q", 0),
        number("Q", 1),
        b"t",
        number("I", 2),
        number("Q", HUGE),
        number("Q", HUGE),
        bytes(40),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_lying_header_is_refused_without_taking_memory(tmp_path, name):
    (tmp_path / "x.gguf").write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"x\.gguf: "):
            GgufFile(tmp_path / "x.gguf")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_list_that_is_there_and_too_long(tmp_path):
    """A sparse file of 200 MB: as a list of numbers it would take 3 GB."""
    with (tmp_path / "x.gguf").open("wb") as file:
        file.write(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IIQ", 9, 0, 2 * 10**8)
        )
        file.truncate(2 * 10**8 + 100)
    with pytest.raises(ValueError, match="200,000,000 numbers is longer than any vocabulary"):
        GgufFile(tmp_path / "x.gguf")


def test_a_template_and_a_tokenizer_that_nobody_can_read(tmp_path):
    for settings, message in (
        ({"tokenizer.chat_template": ("{% for x %}", 8)}, "chat_template: line 1"),
        ({"tokenizer.ggml.model": ("wat", 8)}, "model='wat' is not supported; supported: gpt2, llama"),
    ):
        given = {key: (value, GGUFValueType(kind)) for key, (value, kind) in settings.items()}
        path = write_gguf(tmp_path / "m.gguf", SHAPE, random_weights(SHAPE), settings=given)
        with pytest.raises(ValueError, match=message):
            transform(open_gguf(path), tmp_path / "hf", None)
        assert not (tmp_path / "hf").exists()


def test_a_file_cut_anywhere_writes_nothing(tmp_path):
    config = replace(SHAPE, num_hidden_layers=1)
    whole = write_gguf(tmp_path / "m.gguf", config, random_weights(config), "Q8_0").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(whole), len(whole) // 40)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf: "):
            open_gguf(cut)
    result = run_python("tools/convert_weight.py", "--input_path", cut, "--output_path", tmp_path / "hf")
    assert (
        result.returncode == 2
        and "cut short" in result.stderr
        and "Traceback" not in result.stderr
        and not (tmp_path / "hf").exists()
    )


def test_a_changed_header_never_ends_in_a_stack_trace(tmp_path):
    """Each byte of the header's first part, and of some of the rest, changed in turn: a ValueError, or a file that
    still can be read.
    """
    config = replace(SHAPE, num_hidden_layers=1)
    whole = bytearray(write_gguf(tmp_path / "m.gguf", config, random_weights(config), "Q4_0").read_bytes())
    changed, refused = tmp_path / "changed.gguf", 0
    for place in [*range(700), *range(700, 12_000, 97)]:
        whole[place] ^= 0x81
        changed.write_bytes(whole)
        try:
            open_gguf(changed).readers["weight/"]("model.norm.weight", ((0, 4),))
        except ValueError:
            refused += 1
        whole[place] ^= 0x81
    assert refused > 100
