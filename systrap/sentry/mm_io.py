"""The sentry's own access to guest memory: the second layer of a memory manager.

Every access checks the area's permissions and puts pages where there are none, as one of the guest's would. What a page
leads to is remembered until something changes, so that the common case (small, a page that was used before) is one look-up,
one comparison and one copy.
"""

import errno
import os
import struct
from typing import Final

from systrap.memory import MemoryFile
from systrap.platform import Platform
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm_pages import PAGE_MASK, READ, WRITE, GuestPages
from systrap.sentry.pma import Frames, Run

IOV_MAX: Final = 1024
MAX_IO: Final = 0x7FFFF000
"""The most that one read or write moves (MAX_RW_COUNT)."""

PAGE_SHIFT: Final = PAGE_MASK.bit_length()
_STRING_STEP: Final = 256
_MOST_HITS: Final = 4096
_PAIR = struct.Struct("<QQ")
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")


class GuestMemory(GuestPages):
    """Reading and writing guest memory. Whatever cannot be accessed raises SyscallError(EFAULT)."""

    def __init__(self, platform: Platform, memory: MemoryFile, frames: Frames | None = None) -> None:
        super().__init__(platform, memory, frames)
        self._data = memory.data

    def _locate(self, addr: int, write: bool) -> tuple[Run, int]:
        """Return the run behind ``addr``, ready for the access, and the first address it does not serve."""
        vma = self.vmas.find(addr)
        if vma is None:
            vma = self._grow_stack(addr)
            if vma is None:
                raise SyscallError(errno.EFAULT)
        if not vma.access & (WRITE if write else READ):
            raise SyscallError(errno.EFAULT)
        try:
            run = self.commit(vma, addr & ~PAGE_MASK, write)
        except SyscallError:
            raise SyscallError(errno.EFAULT) from None
        end = min(run.end, vma.end)
        if run.memory:
            if len(self._readable) >= _MOST_HITS:
                self._forget_hits()
            hit = (end, run.offset - run.start)
            self._readable[addr >> PAGE_SHIFT] = hit
            if write:
                self._writable[addr >> PAGE_SHIFT] = hit
        return run, end

    def read(self, addr: int, n: int) -> bytes:
        """Return ``n`` bytes from ``addr``. EFAULT unless all of them can be read."""
        hit = self._readable.get(addr >> PAGE_SHIFT)
        if hit is not None and addr + n <= hit[0]:
            at = addr + hit[1]
            return self._data[at : at + n]
        end = addr + n
        pieces: list[bytes] = []
        while addr < end:
            run, limit = self._locate(addr, False)
            take = min(end, limit) - addr
            pieces.append(self._piece(run, addr, take))
            addr += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, run: Run, addr: int, take: int) -> bytes:
        """Return bytes of one run."""
        at = run.offset + addr - run.start
        if run.memory:
            return self._data[at : at + take]
        content = self._pread(run, at, take)
        if len(content) < take:
            # The file's last page continues with zeros; whole pages behind it are not there.
            if at + take > (at + len(content) + PAGE_MASK & ~PAGE_MASK):
                raise SyscallError(errno.EFAULT)
            content += bytes(take - len(content))
        return content

    def read_partial(self, addr: int, n: int) -> bytes:
        """Return what can be read of ``n`` bytes from ``addr``: all, a prefix, or nothing."""
        try:
            return self.read(addr, n)
        except SyscallError:
            pass
        end = addr + n
        pieces: list[bytes] = []
        try:
            while addr < end:
                limit = min(end, self._locate(addr, False)[1])
                # By pages, for the sake of files that end within the run.
                stop = min(limit, (addr | PAGE_MASK) + 1) if pieces else limit
                try:
                    pieces.append(self.read(addr, stop - addr))
                except SyscallError:
                    stop = min(limit, (addr | PAGE_MASK) + 1)
                    pieces.append(self.read(addr, stop - addr))
                addr = stop
        except SyscallError:
            pass
        return b"".join(pieces)

    def write(self, addr: int, data: "bytes | bytearray | memoryview[int]") -> None:
        """Write all of ``data`` at ``addr``. EFAULT unless all of it can be written; a prefix may be written then."""
        n = len(data)
        hit = self._writable.get(addr >> PAGE_SHIFT)
        if hit is not None and addr + n <= hit[0]:
            at = addr + hit[1]
            self._data[at : at + n] = data
            return
        if self.write_partial(addr, data) != n:
            raise SyscallError(errno.EFAULT)

    def write_partial(self, addr: int, data: "bytes | bytearray | memoryview[int]") -> int:
        """Write as much of ``data`` as can be written at ``addr`` and return how much that is."""
        n = len(data)
        done = 0
        while done < n:
            try:
                run, limit = self._locate(addr + done, True)
                take = min(n - done, limit - addr - done)
                at = run.offset + addr + done - run.start
                piece = data if take == n else data[done : done + take]
                if run.memory:
                    self._data[at : at + take] = piece
                else:
                    take = self._pwrite(run, at, piece)
            except SyscallError:
                break
            done += take
        return done

    @staticmethod
    def _pwrite(run: Run, at: int, piece: "bytes | bytearray | memoryview[int]") -> int:
        """Write to shared pages of a host file."""
        try:
            return os.pwrite(run.file.data_fd(at, len(piece)), piece, at)
        except OSError:
            raise SyscallError(errno.EFAULT) from None

    def check_range(self, addr: int, n: int, write: bool) -> None:
        """Raise EFAULT unless areas allow the access to all of ``[addr, addr+n)``. Puts no pages there."""
        end = addr + n
        while addr < end:
            vma = self.vmas.find(addr) or self._grow_stack(addr)
            if vma is None or not vma.access & (WRITE if write else READ):
                raise SyscallError(errno.EFAULT)
            addr = vma.end

    def read_string(self, addr: int, limit: int = 4096) -> bytes:
        """Return the bytes from ``addr`` to the next NUL, without it. ENAMETOOLONG when ``limit`` bytes hold none."""
        pieces: list[bytes] = []
        left = limit
        while left > 0:
            hit = self._readable.get(addr >> PAGE_SHIFT)
            end = hit[0] if hit is not None else self._locate(addr, False)[1]
            take = min(_STRING_STEP, left, end - addr)
            try:
                piece = self.read(addr, take)
            except SyscallError:
                # A file may end within the run; what is on this page is there.
                take = min(take, (addr | PAGE_MASK) + 1 - addr)
                piece = self.read(addr, take)
            index = piece.find(0)
            if index >= 0:
                pieces.append(piece[:index])
                return b"".join(pieces)
            pieces.append(piece)
            addr += take
            left -= take
        raise SyscallError(errno.ENAMETOOLONG)

    def read_u32(self, addr: int) -> int:
        """Return the 32-bit word at ``addr``."""
        hit = self._readable.get(addr >> PAGE_SHIFT)
        if hit is not None and addr + 4 <= hit[0]:
            at = addr + hit[1]
            return int.from_bytes(self._data[at : at + 4], "little")
        return int.from_bytes(self.read(addr, 4), "little")

    def read_u64(self, addr: int) -> int:
        """Return the 64-bit word at ``addr``."""
        hit = self._readable.get(addr >> PAGE_SHIFT)
        if hit is not None and addr + 8 <= hit[0]:
            at = addr + hit[1]
            return int.from_bytes(self._data[at : at + 8], "little")
        return int.from_bytes(self.read(addr, 8), "little")

    def write_u32(self, addr: int, value: int) -> None:
        """Write a 32-bit word; higher bits of ``value`` are dropped."""
        self.write(addr, _U32.pack(value & 0xFFFFFFFF))

    def write_u64(self, addr: int, value: int) -> None:
        """Write a 64-bit word; higher bits of ``value`` are dropped."""
        self.write(addr, _U64.pack(value & 0xFFFFFFFFFFFFFFFF))

    def compare_exchange_u32(self, addr: int, old: int, new: int) -> int:
        """Write ``new`` to the 32-bit word at ``addr`` if it is ``old``; return what was found."""
        found = self.read_u32(addr)
        if found == old & 0xFFFFFFFF:
            self.write_u32(addr, new)
        else:
            # Fails for memory that may not be written, as the instruction would.
            self.check_range(addr, 4, True)
        return found

    def zero(self, addr: int, n: int) -> None:
        """Write ``n`` zero bytes."""
        while n > 0:
            take = min(n, 1 << 20)
            self.write(addr, bytes(take))
            addr += take
            n -= take

    def read_iovec(self, addr: int, count: int) -> list[tuple[int, int]]:
        """Return the ``count`` entries of an iovec array as (base, length). EINVAL for counts and lengths Linux refuses.

        Lengths are cut so that their sum is what one call may move.
        """
        if not 0 <= count <= IOV_MAX:
            raise SyscallError(errno.EINVAL)
        left = MAX_IO
        entries: list[tuple[int, int]] = []
        for base, length in _PAIR.iter_unpack(self.read(addr, 16 * count)):
            if length >= 1 << 63:
                raise SyscallError(errno.EINVAL)
            take = min(length, left)
            if take and base + take > self.max_address:
                raise SyscallError(errno.EFAULT)
            left -= take
            entries.append((base, take))
        return entries
