"""The sentry image on arm64: the clock, and operations that several threads rely on."""

import ctypes
import os
import threading
import time

import pytest

from systrap.platforms.systrap import blob
from systrap.platforms.systrap.machine_code import SentryCode
from tests.blobs.machine import Machine, Words

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


@pytest.fixture(scope="module")
def machine() -> Machine:
    if os.uname().machine != "aarch64":
        pytest.skip("this needs an arm64 host")
    return Machine()


def test_the_frequency_is_the_counters(machine: Machine) -> None:
    """S-073: ticks of the counter in a second, as the time-outs of both sides are computed from it."""
    frequency = SentryCode(blob.load("sentry")).counter_frequency
    counter = machine.function("counter", u64)
    began, first = time.monotonic(), counter()
    time.sleep(0.3)
    passed, ticks = time.monotonic() - began, counter() - first
    assert 0.5 < ticks / passed / frequency < 2


def test_additions_of_many_threads_all_count(machine: Machine) -> None:
    """Exclusive loads and stores that fail are done again."""
    words = Words.shared(4096)
    add = machine.function("atomic_add32", u32, u64, u32)

    def work() -> None:
        for _ in range(2000):
            add(words.address, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words.u32(0) == 8000


def test_single_operations(machine: Machine) -> None:
    words = Words.shared(4096)
    words.set32(0, 5)
    assert machine.function("atomic_xchg32", u32, u64, u32)(words.address, 9) == 5
    swap = machine.function("atomic_cas32", u32, u64, u32, u32)
    assert swap(words.address, 8, 1) == 9
    assert swap(words.address, 9, 7) == 9
    assert words.u32(0) == 7
    machine.function("store_release64", None, u64, u64)(words.address + 8, 0x1122334455667788)
    assert machine.function("load_acquire64", u64, u64)(words.address + 8) == 0x1122334455667788
