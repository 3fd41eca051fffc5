"""Large arrays that come and go get the same pages."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

COUNT = """
import resource
import numpy as np
from core.memory import keep_freed_memory
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    np.empty(48 * 2**20, dtype=np.uint8).fill(1)
use()
before = faults()
for _ in range(10):
    use()
print(faults() - before)
"""


def page_faults(call: str, **environment: str) -> int:
    command = [sys.executable, "-c", COUNT.format(call=call)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    assert page_faults("keep_freed_memory()") < 10
    assert page_faults("") > 100
    assert page_faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="1000000") > 100
