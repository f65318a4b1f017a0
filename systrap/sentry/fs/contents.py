"""The contents of regular files, and directories, as open files."""

import errno
import os
import weakref
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_APPEND, OpenFile
from systrap.sentry.fs import notify
from systrap.sentry.fs.inode import Location, Stat, from_host
from systrap.sentry.mappable import Backing, Mappable

if TYPE_CHECKING:
    from systrap.sentry.fs.nodes import Regular
    from systrap.sentry.pages import PageStore

SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE = range(5)
MAX_FILE: Final = (1 << 63) - 1


class HostContents(Mappable):
    """A host file's contents, by a descriptor that is open as long as anybody has this object.

    ``store``: the contents in memory that took the host's place when the guest first changed the file. Who had mapped
    the host's pages before sees the store's from then on.
    """

    __slots__ = ("__weakref__", "fd", "store")

    def __init__(self, fd: int) -> None:
        """Take over a descriptor."""
        super().__init__()
        self.fd = fd
        self.store: PageStore | None = None

    def replace(self, store: "PageStore") -> None:
        """Let ``store`` take the host file's place."""
        self.store = store
        store.add_user(_Forward(self))
        self.invalidate(0, MAX_FILE & -PAGE_SIZE)

    def data_fd(self, start: int, length: int) -> int:
        """Return the descriptor (platform.MappableFile)."""
        return self.fd

    def translate(self, offset: int, length: int, write: bool) -> Backing:
        """See Mappable: the host file's own pages, or the store's."""
        if self.store is not None:
            return self.store.translate(offset, length, write)
        size = os.fstat(self.fd).st_size
        end = -(-size // PAGE_SIZE) * PAGE_SIZE
        if offset >= end:
            raise SyscallError(errno.EFAULT)
        return Backing(self, offset, min(length, end - offset), False)

    def read_page_bytes(self, offset: int, length: int) -> bytes:
        """See Mappable."""
        if self.store is not None:
            return self.store.read(offset, length)
        return os.pread(self.fd, length, offset)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Forward:
    """Stands for the mappings of a replaced HostContents among the users of the store."""

    __slots__ = ("_contents",)

    def __init__(self, contents: HostContents) -> None:
        self._contents = weakref.ref(contents)

    def invalidate(self, mappable: Mappable, offset: int, length: int) -> None:
        """See MappingUser."""
        contents = self._contents()
        if contents is not None:
            contents.invalidate(offset, length)


class PathFile(OpenFile):
    """An open file that has a place in the file system."""

    __slots__ = ("location",)

    def __init__(self, location: Location, flags: int) -> None:
        super().__init__(flags)
        self.location = location

    def stat(self) -> Stat:
        """See OpenFile."""
        return self.location.inode.stat()

    def describe(self) -> str:
        """See OpenFile."""
        from systrap.sentry.fs.places import full_path

        return os.fsdecode(full_path(self.location))

    def release(self) -> None:
        """See OpenFile: tells those who watch the file."""
        if notify.watched:
            notify.at(self.location, notify.IN_CLOSE_WRITE if self.writable else notify.IN_CLOSE_NOWRITE)


class OPathFile(PathFile):
    """What O_PATH opens: a place, and no contents."""

    __slots__ = ()

    def release(self) -> None:
        """See OpenFile: nobody is told of places."""


class _Seekable(PathFile):
    """Position arithmetic that all files with a size share."""

    __slots__ = ()
    pollable = False

    def size(self) -> int:
        """Return the length in bytes."""
        return self.stat().size

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile."""
        if whence == SEEK_CUR:
            offset += self.offset
        elif whence == SEEK_END:
            offset += self.size()
        elif whence in (SEEK_DATA, SEEK_HOLE):
            size = self.size()
            if not 0 <= offset < size:
                raise SyscallError(errno.ENXIO)
            offset = self._seek_sparse(offset, size, whence == SEEK_DATA)
        elif whence != SEEK_SET:
            raise SyscallError(errno.EINVAL)
        if not 0 <= offset <= MAX_FILE:
            raise SyscallError(errno.EINVAL)
        self.offset = offset
        return offset

    def _seek_sparse(self, offset: int, size: int, data: bool) -> int:
        return offset if data else size

    def sync(self) -> None:
        """See OpenFile: nothing here survives the run anyway."""


class HostFile(_Seekable):
    """A host file, open for reading (or, below --rw, as the guest asked). ``contents`` holds the descriptor."""

    __slots__ = ("contents", "fd")

    def __init__(self, location: Location, flags: int, contents: HostContents) -> None:
        super().__init__(location, flags)
        self.contents = contents
        self.fd = contents.fd

    def size(self) -> int:
        """See _Seekable."""
        return os.fstat(self.fd).st_size

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        data = self.pread(count, self.offset)
        self.offset += len(data)
        return data

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        try:
            return os.pread(self.fd, count, offset)
        except OSError as error:
            raise SyscallError(error.errno or errno.EIO) from error

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if self.flags & O_APPEND:
            self.offset = self.size()
        count = self.pwrite(data, self.offset)
        self.offset += count
        return count

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        try:
            return os.pwrite(self.fd, data, offset)
        except OSError as error:
            raise SyscallError(error.errno or errno.EIO) from error

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        try:
            os.ftruncate(self.fd, length)
        except OSError as error:
            raise SyscallError(error.errno or errno.EIO) from error
        self.contents.invalidate(length & -PAGE_SIZE, MAX_FILE & -PAGE_SIZE)

    def sync(self) -> None:
        """See OpenFile."""
        if self.writable:
            os.fsync(self.fd)

    def mappable(self) -> Mappable:
        """See OpenFile."""
        return self.contents

    def stat(self) -> Stat:
        """See OpenFile: fresh where the host may have changed it."""
        return self.location.inode.stat()


class LowerFile(HostFile):
    """A file of the overlay, opened for reading while it was the host's. It shows what the guest made of it since."""

    __slots__ = ("node",)

    def __init__(self, location: Location, flags: int, contents: HostContents, node: "Regular") -> None:
        super().__init__(location, flags, contents)
        self.node = node

    def size(self) -> int:
        """See _Seekable."""
        store = self.node.store
        return os.fstat(self.fd).st_size if store is None else store.size

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        store = self.node.store
        return super().pread(count, offset) if store is None else store.read(offset, count)

    def mappable(self) -> Mappable:
        """See OpenFile."""
        return self.node.store or self.contents

    def stat(self) -> Stat:
        """See OpenFile: fresh where the host may have changed it."""
        return from_host(os.fstat(self.fd)) if self.node.own is None else self.node.stat()


class MemoryFileHandle(_Seekable):
    """A regular file whose contents are in memory."""

    __slots__ = ("node", "store", "strips")

    def __init__(
        self, location: Location, flags: int, node: "Regular", store: "PageStore", strips: bool = False
    ) -> None:
        """Take a node and its contents. ``strips``: a change takes set-id bits away: the opener has no power over them."""
        super().__init__(location, flags)
        self.node = node
        self.store = store
        self.strips = strips

    def stat(self) -> Stat:
        """See OpenFile."""
        return self.node.stat()

    def size(self) -> int:
        """See _Seekable."""
        return self.store.size

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        data = self.store.read(self.offset, count)
        self.offset += len(data)
        return data

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        return self.store.read(offset, count)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if self.flags & O_APPEND:
            self.offset = self.store.size
        count = self.pwrite(data, self.offset)
        self.offset += count
        return count

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        count = self.store.write(offset, data)
        self.node.changed()
        if self.strips:
            self.node.strip_set_id()
        return count

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        self.node.truncate(length)
        if self.strips:
            self.node.strip_set_id()

    def mappable(self) -> Mappable:
        """See OpenFile."""
        return self.store

    def _seek_sparse(self, offset: int, size: int, data: bool) -> int:
        if data:
            found = self.store.next_data(offset)
            if found is None or found >= size:
                raise SyscallError(errno.ENXIO)
            return found
        return self.store.next_hole(offset)


class DirectoryFile(PathFile):
    """An open directory. The listing is taken at the first read and kept until the position goes back to 0."""

    __slots__ = ("_listing",)
    pollable = False

    def __init__(self, location: Location, flags: int) -> None:
        super().__init__(location, flags)
        self._listing: list[tuple[bytes, int, int]] | None = None

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        raise SyscallError(errno.EISDIR)

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        raise SyscallError(errno.EISDIR)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """Return (name, ino, d_type) of everything, "." and ".." first; positions are indexes."""
        if self._listing is None:
            from systrap.sentry.fs.places import settle

            here = self.location
            above = settle(here).parent or here
            dots = [(b".", here.inode.stat().ino, 4), (b"..", above.inode.stat().ino, 4)]
            self._listing = dots + here.inode.entries()
        return self._listing

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile: only to positions that were given out."""
        if whence == SEEK_CUR:
            offset += self.offset
        elif whence not in (SEEK_SET, SEEK_END):
            raise SyscallError(errno.EINVAL)
        elif whence == SEEK_END:
            offset += len(self.entries())
        if offset < 0:
            raise SyscallError(errno.EINVAL)
        if offset == 0:
            self._listing = None
        self.offset = offset
        return offset

    def sync(self) -> None:
        """See OpenFile."""
