"""Whoever has not the job's key cannot speak for a rank."""

import os

import pytest

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.job.key import KEY_VARIABLE, find_key, forget_key, given_key, leave_key
from mindrlhf_lite.parallel.signing import ForgedMessage, Signer


def pair(keys=(b"k" * 32, b"k" * 32)):
    return Signer(keys[0], 0), Signer(keys[1], 1)


def test_every_rank_reads_every_other():
    a, b = pair()
    for data in (b"", b"first", b"second"):
        from_a, from_b = a.sign("all", data), b.sign("all", data + b"!")
        assert b.verified("all", 0, from_a) == data and a.verified("all", 1, from_b) == data + b"!"


@pytest.mark.parametrize(
    "what", ["changed", "cut", "longer", "again", "another rank's", "another group's", "no signature"]
)
def test_what_is_forged_is_refused(what):
    a, b = pair()
    old = b.sign("all", b"data")
    a.sign("all", b"")
    assert a.verified("all", 1, old) == b"data"
    new, elsewhere = b.sign("all", b"data"), b.sign("two", b"data")
    own = a.sign("all", b"data")
    forged = {
        "changed": new[:-1] + b"b",
        "cut": new[:-1],
        "longer": new + b"a",
        "again": old,
        "another rank's": own,
        "another group's": elsewhere,
        "no signature": b"data",
    }[what]
    with pytest.raises(ForgedMessage, match="rank 1"):
        a.verified("all", 1, forged)
    assert a.verified("all", 1, new) == b"data"


def test_another_jobs_key_opens_nothing():
    a, b = pair((b"k" * 32, b"j" * 32))
    a.sign("all", b"")
    with pytest.raises(ForgedMessage, match=KEY_VARIABLE):
        a.verified("all", 1, b.sign("all", b"data"))


def test_a_key_that_is_left_for_others(tmp_path):
    key = leave_key(tmp_path / "run")
    (path,) = (tmp_path / "run").iterdir()
    assert find_key(tmp_path / "run") == key and path.stat().st_mode & 0o777 == 0o600 and len(key) == 64
    assert leave_key(tmp_path / "run") != key
    path.chmod(0o640)
    with pytest.raises(UserError, match="not this user's alone"):
        find_key(tmp_path / "run")
    forget_key(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("is_link", [False, True])
def test_a_key_that_is_not_there_or_a_link(tmp_path, monkeypatch, is_link):
    monkeypatch.setattr("mindrlhf_lite.job.key._WAIT_S", 0.2)
    if is_link:
        leave_key(tmp_path / "a")
        (path,) = (tmp_path / "a").iterdir()
        os.symlink(path, tmp_path / path.name)
    with pytest.raises(UserError, match=f"export {KEY_VARIABLE}"):
        find_key(tmp_path)


def test_a_short_key_is_refused(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with pytest.raises(UserError, match="6 characters; 32 are needed"):
        given_key()
    monkeypatch.setenv(KEY_VARIABLE, "s" * 32)
    assert given_key() == b"s" * 32
