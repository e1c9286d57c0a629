"""TensorBoard's files hold what metrics.jsonl holds; where they cannot be written, the run goes on."""

import errno
import struct

import pytest

from mindrlhf_lite.observe.run_files import read_metrics
from mindrlhf_lite.observe.writers import MetricsWriter
from mindrlhf_lite.types import StepMetrics


def events(folder):
    """What is in the files of a folder; lengths and values have check sums."""
    from tensorboardX.proto.event_pb2 import Event  # after MindSpore, which chooses an implementation of protobuf
    from tensorboardX.record_writer import masked_crc32c

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,), (sum_of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
            record, (sum_of_record,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
            assert sum_of_length == masked_crc32c(data[:8]) and sum_of_record == masked_crc32c(record)
            yield Event.FromString(record)
            data = data[16 + length :]


def test_the_same_values_and_what_is_not_shown_again(tmp_path):
    first = MetricsWriter(tmp_path, tmp_path / "board", 0)
    for step in (1, 2, 3):
        first.write(StepMetrics(step, {f"a/{number}": step + number / 4 for number in range(25)}))
    first.close()
    resumed = MetricsWriter(tmp_path, tmp_path / "board", 2)
    resumed.write(StepMetrics(3, {"a/0": 7.5}))
    resumed.close()
    found = list(events(tmp_path / "board"))
    assert [each.step for each in found if each.HasField("session_log")] == [1, 3]
    scalars = [(each.step, value.tag, value.simple_value) for each in found for value in each.summary.value]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert scalars[:50] == [(row["step"], key, row[key]) for row in rows[:2] for key in list(row)[1:]]
    assert scalars[-1] == (3, "a/0", 7.5) and rows[-1] == {"step": 3, "a/0": 7.5}


@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_full_disk_of_its_own(tmp_path, monkeypatch, capsys, after):
    """metrics.jsonl lies elsewhere and goes on; it is said once."""
    from tensorboardX import record_writer

    class Full:
        """A disk with room for so many writes."""

        def __init__(self):
            self.left = after

        def write(self, data):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = lambda self: self.write(b"")

    monkeypatch.setattr(record_writer, "open_file", lambda path: Full())
    writer = MetricsWriter(tmp_path, tmp_path / "board", 0)
    for step in range(1, 20):
        writer.write(StepMetrics(step, {"a": 1.0, "b": 2.0}))
    writer.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 19
    assert capsys.readouterr().out.count("No space left on device; TensorBoard is left out from here on") == 1
