"""Large arrays that come and go get the same pages."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

import core.memory
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


def kept_by(library: tuple[str, str]) -> bool:
    name, version = library
    return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


@pytest.mark.skipif(not kept_by(platform.libc_ver()), reason="another C library, or an older one")
def test_freed_memory_is_kept() -> None:
    assert page_faults("keep_freed_memory()") < 10
    assert page_faults("") > 100
    assert page_faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="1000000") > 100
    assert page_faults("keep_freed_memory()", GLIBC_TUNABLES="glibc.malloc.check=0") > 100
    assert page_faults("keep_freed_memory()", GLIBC_TUNABLES="glibc.rtld.nns=4") < 10


def test_an_older_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuses(parameter: int, value: int) -> int:
        asked.append(parameter)
        return 0

    library = SimpleNamespace(mallopt=refuses)
    monkeypatch.setattr(core.memory.ctypes, "CDLL", lambda name: library)
    core.memory.keep_freed_memory()
    assert asked == [core.memory.M_MMAP_THRESHOLD]
