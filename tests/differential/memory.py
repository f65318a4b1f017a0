"""One address space of a differential run: what is mapped, and what is done to it between and during snippets."""

from typing import Final

from systrap.memory import MemoryFile
from systrap.platform import Access, MapRequest, Platform, UnmapRequest
from tests.differential import snippet as s
from tests.differential.guest_pages import GuestPages, Page
from tests.differential.snippet import PAGE, Layout, Snippet

R, W, X = Access.READ, Access.WRITE, Access.EXECUTE

_SIZE: Final = 1 << 30
_HALF_SECOND: Final = s.HALF + PAGE
_CODE_AREAS: Final = (
    (s.CODE, s.CODE_PAGES), (s.EDGE, 1), (s.EDGE_SITE, 1), (s.STRADDLE, 2), (s.HALF, 2),
)  # fmt: skip


class SpaceMemory(GuestPages):
    """The pages of one address space. All are private to it: a copy-on-write page has been copied already.

    ``pages`` says what is mapped now. Every address that may ever be mapped has its page of the file from the beginning.
    """

    def __init__(self, platform: Platform, file: MemoryFile) -> None:
        """Make a space with everything mapped as a snippet expects it."""
        super().__init__(platform, file)
        self._home: dict[int, int] = {}
        for start, count in _CODE_AREAS:
            self._settle(start, count)
        for twin in range(s.MAX_TWINS):
            base = s.TWIN + twin * s.TWIN_SPACING
            self._settle(base, 3)
            self._settle(base + s.SHUT, 1)
            self._settle(base + s.STACK, s.STACK_PAGES)
        self._wanted = self._initial()
        for addr, page in self._wanted.items():
            self.map(addr, page.offset, page.access)

    def _settle(self, addr: int, count: int) -> None:
        """Give pages of the file to addresses."""
        offset = self.take(count * PAGE)
        for index in range(count):
            self._home[addr + index * PAGE] = offset + index * PAGE

    def _initial(self) -> dict[int, Page]:
        """Return what is mapped when a snippet begins."""
        wanted = {}
        for start, count in _CODE_AREAS:
            for addr in range(start, start + count * PAGE, PAGE):
                wanted[addr] = Page(self._home[addr], R | X)
        del wanted[_HALF_SECOND]
        for twin in range(s.MAX_TWINS):
            base = s.TWIN + twin * s.TWIN_SPACING
            for page in (s.PLAIN, s.READ_ONLY, s.SHUT):
                wanted[base + page] = Page(self._home[base + page], s.mapped_access(page))
            wanted[base + s.BEYOND] = Page(self.file.size, R | W)
            for addr in range(base + s.STACK, base + s.STACK + s.STACK_PAGES * PAGE, PAGE):
                wanted[addr] = Page(self._home[addr], R | W)
        return wanted

    def reset(self, snippet: Snippet, layout: Layout) -> None:
        """Put contents and mappings back to what a snippet begins with. No context may run here."""
        # Twins would race for who maps the second half first.
        wanted = dict(self._wanted)
        if snippet.twins > 1:
            wanted[_HALF_SECOND] = Page(self._home[_HALF_SECOND], R | X)
        usertrap = {area.start + i for area in self.areas for i in range(0, area.length, PAGE)}
        requests: list[MapRequest | UnmapRequest] = [
            UnmapRequest(addr, PAGE) for addr in self.pages.keys() - wanted.keys() - usertrap
        ]
        requests += [
            MapRequest(addr, PAGE, self.file, page.offset, page.access)
            for addr, page in wanted.items()
            if self.pages.get(addr) != page
        ]
        if requests:
            self.space.apply(requests)
        self.pages = {**{addr: self.pages[addr] for addr in usertrap}, **wanted}
        self._fill(snippet, layout)

    def _fill(self, snippet: Snippet, layout: Layout) -> None:
        for start, count in _CODE_AREAS:
            offset = self._home[start]
            self.file.data[offset : offset + count * PAGE] = b"\xf4" * (count * PAGE)
        for start, code in ((layout.start, layout.code), *s.out_of_line(snippet.places)):
            self.poke(start, code)
        for twin in range(snippet.twins):
            base = s.TWIN + twin * s.TWIN_SPACING
            for number, addr in enumerate(addresses_of(twin)):
                offset = self._home[addr]
                pattern = (snippet.salt + 251 * twin + 41 * number).to_bytes(9, "little")[:7]
                filling = (pattern * (PAGE // 7 + 1))[:PAGE]
                self.file.data[offset : offset + PAGE] = bytes(PAGE) if addr == base + s.LAZY else filling

    def poke(self, addr: int, content: bytes) -> None:
        """Write to pages whose homes lie side by side in the file."""
        offset = self._home[addr & -PAGE] + addr % PAGE
        self.file.data[offset : offset + len(content)] = content

    def peek(self, addr: int, length: int) -> bytes:
        """Read from pages whose homes lie side by side in the file."""
        offset = self._home[addr & -PAGE] + addr % PAGE
        return self.file.data[offset : offset + length]

    # What the guest kernel does between runs.

    def repair(self, twin: int, addr: int, access: Access) -> bool:
        """Map what a page fault asks for, if anything is to be mapped there. Tells whether it was."""
        page = addr & -PAGE
        if page == _HALF_SECOND and access == X and page not in self.pages:
            self.map(page, self._home[page], R | X)
            return True
        base = s.TWIN + twin * s.TWIN_SPACING
        mapped = self.pages.get(page)
        if page == base + s.LAZY and mapped is None and access in (R, W):
            self.map(page, self._home[page], R | W)
            return True
        if (
            page in (base + s.PLAIN, base + s.READ_ONLY)
            and access == W
            and mapped is not None
            and not mapped.access & W
        ):
            self.map(page, self._home[page], R | W)
            return True
        return False

    def unmap_lazy(self, twin: int) -> None:
        """Unmap the page that is mapped when it is touched; its contents stay."""
        addr = s.TWIN + twin * s.TWIN_SPACING + s.LAZY
        self.space.unmap(addr, PAGE)
        self.pages.pop(addr, None)

    def protect_plain(self, twin: int) -> None:
        """Take the permission to write away from the plain page."""
        addr = s.TWIN + twin * s.TWIN_SPACING + s.PLAIN
        self.map(addr, self._home[addr], R)

    def remap_code(self) -> None:
        """Map the code anew, as it is, while others may be running it."""
        self.space.map_file(s.CODE, self.file, self._home[s.CODE], s.CODE_PAGES * PAGE, R | X)


def addresses_of(twin: int) -> tuple[int, ...]:
    """Return the pages of a twin that hold data."""
    base = s.TWIN + twin * s.TWIN_SPACING
    stack = tuple(base + s.STACK + number * PAGE for number in range(s.STACK_PAGES))
    return (base + s.PLAIN, base + s.READ_ONLY, base + s.LAZY, *stack)


def memory_file() -> MemoryFile:
    """Return a file for the memory of all spaces of one worker."""
    return MemoryFile("differential", _SIZE)
