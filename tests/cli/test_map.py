"""``systrap map``: the picture is what the platform's own layout code computes, for every page size and width."""

import json
from itertools import pairwise

import pytest

from systrap.cli import map as map_command
from systrap.cli.main import main
from systrap.cli.options import UsageError
from systrap.cli.stub_picture import HOLE, Region, example, regions, user_limit
from systrap.host import limits
from systrap.platforms.systrap import layout


def picture(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["map", *arguments]) == 0
    return capsys.readouterr().out


CASES = [
    ("x86_64", 4096, 47),
    ("x86_64", 4096, 56),
    *(("aarch64", page, bits) for page in (4096, 16384, 65536) for bits in (39, 42, 47, 48, 52)),
]


@pytest.mark.parametrize(("machine", "page", "bits"), CASES)
@pytest.mark.parametrize("threads", [1, 7])
def test_regions_cover_everything_once(machine: str, page: int, bits: int, threads: int) -> None:
    """No two regions overlap, and guests end where the stub may begin (S-001, S-004, S-006, S-009)."""
    place, size = example(machine, page, bits, threads, 3 * page)
    found = regions(place, size, 65536)
    assert found[0].start == 0
    assert found[-1].end == size
    for before, after in pairwise(found):
        assert before.end == after.start
        assert not before.kind == after.kind == HOLE
    by_name = {region.name: region for region in found}
    assert by_name["guest memory"].end == user_limit(size, page) <= place.stub_start
    assert by_name["4096 contexts"].start == place.contexts
    assert sum(region.name.endswith("struct sysmsg") for region in found) == threads
    for stack_id in range(1, threads + 1):
        sysmsg = by_name[f"thread {stack_id}: struct sysmsg"]
        assert sysmsg.end % layout.area_shape(page).size == 0
    assert all(region.start % page == 0 for region in found)


def test_the_limit_is_that_of_this_host() -> None:
    assert user_limit(limits.task_size(), 4096) == limits.max_user_address()


def test_text_and_json_agree(capsys: pytest.CaptureFixture[str]) -> None:
    text = picture("--arch", "aarch64", "--page", "64k", "--bits", "42", "--threads", "3", capsys=capsys)
    found = json.loads(
        picture("--arch", "aarch64", "--page", "64K", "--bits", "42", "--threads", "3", "--json", capsys=capsys)
    )
    assert (found["page"], found["bits"], found["threads"]) == (65536, 42, 3)
    for region in (Region(**region) for region in found["regions"]):
        assert f"{region.start:x} +" in text
        assert region.kind == HOLE or region.name in text
    assert "aarch64, 64K pages, 42-bit addresses, 3 threads" in text


def test_this_host_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{limits.task_size():x} +" in picture(capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--page", "64k", "--arch", "x86_64"), "x86_64 has pages of 4k"),
        (("--arch", "aarch64", "--bits", "40"), "have 39, 42, 47, 48, 52"),
        (("--gap", "5"), "multiple of the page size"),
        (("--threads", "none"), "takes a number"),
        (("--threads", "0"), "from 1 to"),
        (("--arch", "aarch64", "--bits", "39", "--gap", "0x1000000000"), "does not fit"),
        (("x",), "takes options only"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", *arguments]) == 125
    assert words in capsys.readouterr().err
    with pytest.raises(UsageError):
        map_command.main(list(arguments))
