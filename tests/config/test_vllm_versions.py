"""vLLM on Ascend: versions that were not released for each other are said before a start."""

import sys
from types import SimpleNamespace

import pytest

from mindrlhf_lite.config.load import build_config
from mindrlhf_lite.config.vllm_versions import version_notes

ON_ASCEND = {"generate_config.use_vllm": 1, "context.device_target": "Ascend"}


def install(folder, name, version):
    """What pip leaves of a package that importlib.metadata reads."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return SimpleNamespace(install=lambda name, version: install(tmp_path, name, version))


def test_another_mindspore_than_the_release_names(site):
    site.install("vllm_mindspore", "0.5.1")
    site.install("vllm", "0.11.0")
    site.install("mindspore", "2.9.0")
    (note,) = version_notes(build_config(ON_ASCEND))
    assert "released for mindspore 2.7.1.post1, vllm 0.11.0, CANN 8.3.RC1" in note and "here: mindspore 2.9.0" in note
    assert version_notes(build_config({**ON_ASCEND, "generate_config.use_vllm": 0})) == ()
    assert version_notes(build_config({"generate_config.use_vllm": 1})) == ()  # on CPU: this project's plugin


def test_the_versions_of_the_release(site):
    for name, version in (("vllm_mindspore", "0.5.1"), ("vllm", "0.11.0"), ("mindspore", "2.7.1.post1")):
        site.install(name, version)
    notes = version_notes(build_config(ON_ASCEND))
    assert notes == () if sys.version_info < (3, 12) else "here: Python" in notes[0]


def test_another_release(site):
    site.install("vllm_mindspore", "0.9.0")
    assert "written against 0.5.1" in version_notes(build_config(ON_ASCEND))[0]
