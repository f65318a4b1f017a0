"""The sentry image's single operations, called as Python calls them."""

import ctypes
import threading

import pytest

from tests.blobs.machine import Machine, Words

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


@pytest.fixture
def words() -> Words:
    return Words.shared(4096)


def test_add_answers_the_old_value_and_wraps(machine: Machine, words: Words) -> None:
    add = machine.function("atomic_add32", u32, u64, u32)
    words.set32(0, 0xFFFFFFFF)
    words.set32(4, 7)
    assert add(words.address, 2) == 0xFFFFFFFF
    assert words.u32(0) == 1
    assert words.u32(4) == 7


def test_exchange(machine: Machine, words: Words) -> None:
    exchange = machine.function("atomic_xchg32", u32, u64, u32)
    words.set32(0, 5)
    assert exchange(words.address, 9) == 5
    assert words.u32(0) == 9


@pytest.mark.parametrize(("expected", "after"), [(5, 8), (6, 5)])
def test_compare_and_swap_answers_what_was_there(machine: Machine, words: Words, expected: int, after: int) -> None:
    swap = machine.function("atomic_cas32", u32, u64, u32, u32)
    words.set32(0, 5)
    assert swap(words.address, expected, 8) == 5
    assert words.u32(0) == after


def test_loads_and_stores(machine: Machine, words: Words) -> None:
    machine.function("store_release32", None, u64, u32)(words.address, 0xDEADBEEF)
    machine.function("store_release64", None, u64, u64)(words.address + 8, 0x1122334455667788)
    assert machine.function("load_acquire32", u32, u64)(words.address) == 0xDEADBEEF
    assert machine.function("load_acquire64", u64, u64)(words.address + 8) == 0x1122334455667788
    machine.function("fence", None)()


def test_counter_goes_up(machine: Machine) -> None:
    counter = machine.function("counter", u64)
    first = counter()
    assert counter() > first


def test_additions_of_many_threads_all_count(machine: Machine, words: Words) -> None:
    add = machine.function("atomic_add32", u32, u64, u32)

    def work() -> None:
        for _ in range(5000):
            add(words.address, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words.u32(0) == 20000


def test_cpuid_tells_the_vendor(machine: Machine, words: Words) -> None:
    machine.function("cpuid", ctypes.c_int, u64)(words.address)
    vendor = bytes(words.bytes[4:8]) + bytes(words.bytes[12:16]) + bytes(words.bytes[8:12])
    assert vendor.isalpha()
