"""The archive format that a kernel unpacks at boot: cpio, "newc". Several may follow each other in one file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"
_BLOCK: Final = 512
"""Archives begin at multiples of this here; the kernel wants 4."""


class Archive:
    """Writes one archive. Everything in it belongs to root; folders are added before what is in them."""

    def __init__(self, file: BinaryIO) -> None:
        """Write to ``file``, which stands at a multiple of 512."""
        self._file = file
        self._inode = 0
        self._folders = {""}

    def add(self, name: str, mode: int, data: bytes = b"", *, mtime: int = 0, device: tuple[int, int] = (0, 0)) -> None:
        """Add one entry; ``mode`` includes the kind of file. Raises ValueError for what the format has no room for."""
        if len(data) >= 1 << 32:
            raise ValueError(f"{name}: longer than 4 GiB")
        self._inode += 1
        text = os.fsencode(name) + b"\0"
        fields = (self._inode, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(text), 0)
        self._padded(_MAGIC + b"".join(b"%08X" % field for field in fields) + text)
        self._padded(data)

    def _padded(self, data: bytes) -> None:
        self._file.write(data)
        self._file.write(bytes(-len(data) % 4))

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder and those above it, unless they are there."""
        if name not in self._folders:
            self.folder(os.path.dirname(name))
            self._folders.add(name)
            self.add(name, stat.S_IFDIR | mode)

    def text(self, name: str, content: str, mode: int = 0o644) -> None:
        """Add a file and the folders above it."""
        self.data(name, content.encode(), mode)

    def data(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file of bytes and the folders above it."""
        self.folder(os.path.dirname(name))
        self.add(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.folder(os.path.dirname(name))
        self.add(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def tree(self, root: Path, name: str = "", wanted: Callable[[Path], bool] = lambda _: True) -> None:
        """Add what is in a folder of the host's: files, folders, symbolic links. Nothing else."""
        if name:
            self.folder(name, stat.S_IMODE(root.stat().st_mode))
        for path in sorted(root.iterdir()):
            if not wanted(path):
                continue
            inside = f"{name}/{path.name}" if name else path.name
            info = path.lstat()
            if path.is_symlink():
                self.add(inside, stat.S_IFLNK | 0o777, os.fsencode(path.readlink()), mtime=int(info.st_mtime))
            elif path.is_dir():
                self.tree(path, inside, wanted)
            elif path.is_file():
                self.add(inside, info.st_mode, path.read_bytes(), mtime=int(info.st_mtime))

    def close(self) -> None:
        """Write the end. The file stays open."""
        self.add(_END, 0)
        self._file.write(bytes(-self._file.tell() % _BLOCK))
