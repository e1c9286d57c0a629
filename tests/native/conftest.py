import ctypes

import pytest
from native.called import ISAS

from mindrlhf_lite.native import build


@pytest.fixture(scope="module", params=ISAS)
def library(request):
    loaded = ctypes.CDLL(str(build.compile_library(build.compiler(), request.param)))
    assert loaded.native_set_up(1, 0) == 0
    return loaded
