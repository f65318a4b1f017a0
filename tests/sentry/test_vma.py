"""The set of areas and the search for gaps against a dict of pages."""

from hypothesis import given, settings
from hypothesis import strategies as st

from systrap.sentry.vma import Vma, VmaSet
from tests.sentry.fake_platform import PAGE
from tests.sentry.test_mm_model import HostContents, TestFile

TOP = 64


class Owner:
    """Has no translations."""

    def invalidate(self, mappable: object, offset: int, length: int) -> None:
        raise AssertionError


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "cut", "protect", "gap"]),
        st.integers(0, TOP - 1),
        st.integers(1, 12),
        st.integers(0, 7),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_set_is_a_dict_of_pages(steps: "list[tuple[str, int, int, int]]") -> None:
    contents = HostContents(b"")
    file = TestFile(contents)
    vmas = VmaSet(Owner())
    model: dict[int, tuple[int, int]] = {}
    for name, at, count, prot in steps:
        start, end = at * PAGE, min(at + count, TOP) * PAGE
        if name == "gap":
            expected = [
                n
                for n in range(TOP - count + 1)
                if not any(p in model for p in range(n * PAGE, (n + count) * PAGE, PAGE))
            ]
            found = vmas.gap_below(count * PAGE, 0, TOP * PAGE)
            assert found == (expected[-1] * PAGE if expected else None)
            assert vmas.gap_above(count * PAGE, 0, TOP * PAGE) == (expected[0] * PAGE if expected else None)
            continue
        taken = vmas.cut(start, end)
        assert sum(a.length for a in taken) == sum(PAGE for p in range(start, end, PAGE) if p in model)
        if name == "protect":
            for area in taken:
                vmas.add(area.changed(prot=prot))
            for page in range(start, end, PAGE):
                if page in model:
                    model[page] = (prot, model[page][1])
            continue
        vmas.let_go(taken)
        for page in range(start, end, PAGE):
            model.pop(page, None)
        if name == "add":
            area = Vma(start, end, prot, 0, 7, contents, start, file)
            vmas.count(area)
            vmas.add(area)
            for page in range(start, end, PAGE):
                model[page] = (prot, page)
        assert vmas.size == len(model) * PAGE
    pages = {p: (a.prot, a.offset + p - a.start) for a in vmas.items for p in range(a.start, a.end, PAGE)}
    assert pages == model
    assert vmas.starts == [a.start for a in vmas.items]
    assert sum(contents.users.values()) == len(vmas.items)
    assert file.refs == 1 + len(vmas.items)
    for page in range(0, TOP * PAGE, PAGE):
        assert (vmas.find(page + 5) is not None) == (page in model)
