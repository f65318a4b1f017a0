"""The overlay against the host's own file system: the same random operations on both, the same results, errors and tree."""

import errno
import os
import random
import stat as stats
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any  # results of all kinds are compared, never used

import pytest

from systrap.memory import MemoryFile
from systrap.sentry.credentials import Credentials
from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.hostrw import HostInode
from systrap.sentry.fs.inode import Inode, Location
from systrap.sentry.fs.nodes import host_overlay
from systrap.sentry.fs.path import FSContext
from systrap.sentry.fs.vfs import VFS

NAMES = ("a", "b", "c", "d")
TARGETS = ("a", "b", "c/d", "a/b/c", "nowhere")
CREATE = os.O_WRONLY | os.O_CREAT
OPEN_FLAGS = (
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR,
    CREATE,
    CREATE | os.O_EXCL,
    CREATE | os.O_TRUNC,
    CREATE | os.O_APPEND,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDONLY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_CREAT,
)


def populate(root: Path) -> None:
    """Make the tree both sides start from."""
    for directory in ("a", "a/b", "c", "c/d", "c/d/a"):
        (root / directory).mkdir()
    for name in ("b", "a/a", "a/b/c", "c/b", "c/d/a/b"):
        (root / name).write_bytes(name.encode() * 100)
    (root / "d").symlink_to("c/d")
    (root / "a/c").symlink_to("b")
    (root / "a/d").symlink_to("nowhere")
    os.link(root / "b", root / "c/c")
    for path, _, files in os.walk(root):
        for name in ("", *files):
            if not (Path(path) / name).is_symlink():
                os.utime(Path(path) / name, (1_000_000_000, 1_000_000_000))


class Native:
    """The operations, done by the host below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def __call__(self, operation: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Do one; return its result, or its errno as a name."""
        try:
            return getattr(self, operation)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def _at(self, path: str) -> bytes:
        return self.root + path.encode()

    def open(self, path: str, flags: int, data: bytes) -> bytes | int | None:
        fd = os.open(self._at(path), flags, 0o640)
        try:
            if stats.S_ISDIR(os.fstat(fd).st_mode):
                return None
            if flags & os.O_ACCMODE == os.O_RDONLY:
                return os.read(fd, 100_000)
            return os.write(fd, data)
        finally:
            os.close(fd)

    def mkdir(self, path: str) -> None:
        os.mkdir(self._at(path), 0o750)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target.encode(), self._at(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def truncate(self, path: str, length: int) -> None:
        os.truncate(self._at(path), length)

    def readlink(self, path: str) -> bytes:
        return os.readlink(self._at(path))

    def stat(self, path: str, follow: bool) -> tuple[int, ...]:
        found = os.stat(self._at(path), follow_symlinks=follow)
        size = 0 if stats.S_ISDIR(found.st_mode) else found.st_size
        return (found.st_mode, found.st_nlink, size)

    def listing(self, path: str) -> list[bytes]:
        return sorted(os.listdir(self._at(path)))


class Guest:
    """The same operations, done by the guest's VFS on an overlay."""

    def __init__(self, root: Inode, memory: MemoryFile) -> None:
        self.vfs = VFS.__new__(VFS)
        self.vfs.mounts = {}
        self.vfs.mount_points = []
        self.vfs.root = Location(root)
        self.task: Any = SimpleNamespace(
            creds=Credentials(0, 0, 0, 0, 0, 0, 0, 0),
            fs=FSContext(self.vfs.root, self.vfs.root, 0o022),
            kernel=SimpleNamespace(memory=memory, vfs=self.vfs),
        )

    def __call__(self, operation: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Do one; return its result, or its errno as a name."""
        try:
            return getattr(self, operation)(*arguments)
        except SyscallError as error:
            return errno.errorcode[error.errno]

    def open(self, path: str, flags: int, data: bytes) -> bytes | int | None:
        file = self.vfs.open(self.task, None, path, flags, 0o640)
        try:
            if stats.S_ISDIR(file.stat().mode):
                return None
            if flags & os.O_ACCMODE == os.O_RDONLY:
                return file.read(100_000)
            return file.write(data)
        finally:
            file.release()

    def mkdir(self, path: str) -> None:
        self.vfs.make(self.task, None, path, stats.S_IFDIR | 0o750)

    def rmdir(self, path: str) -> None:
        self.vfs.rmdir(self.task, None, path)

    def unlink(self, path: str) -> None:
        self.vfs.unlink(self.task, None, path)

    def rename(self, old: str, new: str) -> None:
        self.vfs.rename(self.task, None, old, None, new, 0)

    def link(self, old: str, new: str) -> None:
        self.vfs.link(self.task, self.vfs.lookup(self.task, None, old, False), None, new)

    def symlink(self, target: str, path: str) -> None:
        self.vfs.symlink(self.task, None, path, target.encode())

    def chmod(self, path: str, mode: int) -> None:
        self.vfs.lookup(self.task, None, path).inode.chmod(mode)

    def truncate(self, path: str, length: int) -> None:
        inode = self.vfs.lookup(self.task, None, path).inode
        if inode.is_directory:
            raise SyscallError(errno.EISDIR)
        inode.truncate(length)

    def readlink(self, path: str) -> bytes:
        return self.vfs.lookup(self.task, None, path, False).inode.readlink()

    def stat(self, path: str, follow: bool) -> tuple[int, ...]:
        found = self.vfs.lookup(self.task, None, path, follow).inode.stat()
        return (found.mode, found.nlink, 0 if stats.S_ISDIR(found.mode) else found.size)

    def listing(self, path: str) -> list[bytes]:
        return sorted(name for name, _, _ in self.vfs.lookup(self.task, None, path).inode.entries())


def snapshot(side: Native | Guest, path: str = "/") -> dict[str, Any]:
    """Return everything below a directory: attributes, contents, link texts."""
    found: dict[str, Any] = {path: side("stat", path, False)}
    for name in side("listing", path):
        below = f"{path.rstrip('/')}/{name.decode()}"
        attributes = side("stat", below, False)
        kind = attributes[0] & 0o170000
        if kind == stats.S_IFDIR:
            found |= snapshot(side, below)
        elif kind == stats.S_IFLNK:
            found[below] = attributes, side("readlink", below)
        else:
            found[below] = attributes, side("open", below, os.O_RDONLY, b"")
    return found


def random_path(dice: random.Random) -> str:
    """Return an absolute path of one to three components; now and then with an odd ending."""
    path = "/" + "/".join(dice.choice(NAMES) for _ in range(dice.choice((1, 1, 2, 2, 3))))
    return path + dice.choice(("",) * 12 + ("/", "/.", "/.."))


def random_operation(dice: random.Random) -> tuple[Any, ...]:
    """Return an operation's name and arguments."""
    path = random_path(dice)
    match dice.choice(
        ("open",) * 4 + ("rename",) * 4 + ("mkdir", "rmdir", "unlink", "link", "symlink", "chmod", "truncate", "look")
    ):
        case "open":
            return "open", path, dice.choice(OPEN_FLAGS), bytes((dice.randrange(256),)) * dice.choice((1, 10, 5000))
        case "symlink":
            return "symlink", dice.choice(TARGETS), path
        case "chmod":
            return "chmod", path, dice.choice((0o600, 0o755, 0o1711))
        case "truncate":
            return "truncate", path, dice.choice((0, 5, 4096, 9000))
        case "look":
            return dice.choice((("stat", path, True), ("stat", path, False), ("readlink", path), ("listing", path)))
        case ("rename" | "link") as name:
            return name, path, random_path(dice)
        case name:
            return name, path


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryFile]:
    memory = MemoryFile("test", 1 << 32)
    yield memory
    memory.close()


def umask() -> int:
    old = os.umask(0o022)
    os.umask(old)
    return old


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the guest's root is compared with the host's root")
needs_umask = pytest.mark.skipif(umask() != 0o022, reason="expects umask 022")


def run_on_both(native: Native, guest: Guest, seed: int) -> None:
    """Do 60 random operations on both sides and compare every result and what is there in the end."""
    dice = random.Random(seed)
    done: list[tuple[Any, ...]] = []
    for _ in range(60):
        operation = random_operation(dice)
        done.append(operation)
        expected, found = native(*operation), guest(*operation)
        assert found == expected, f"{operation}: {found} instead of {expected}, after {done}"
    tree, guest_tree = snapshot(native), snapshot(guest)
    wrong = {name for name in tree.keys() | guest_tree.keys() if tree.get(name) != guest_tree.get(name)}
    assert not wrong, f"{[(n, guest_tree.get(n), tree.get(n)) for n in sorted(wrong)]}, after {done}"


@needs_root
@needs_umask
@pytest.mark.parametrize("seed", range(30))
def test_overlay(tmp_path: Path, memory: MemoryFile, seed: int) -> None:
    """The guest's changes are as on the host, and the host's tree stays as it was."""
    native_root, lower = tmp_path / "native" / "root", tmp_path / "lower"
    native_root.mkdir(parents=True)
    lower.mkdir()
    populate(native_root)
    populate(lower)
    before = snapshot(Native(lower))
    run_on_both(Native(native_root), Guest(host_overlay(memory, os.fsencode(lower)), memory), seed)
    assert snapshot(Native(lower)) == before


@needs_root
@needs_umask
@pytest.mark.parametrize("seed", range(30))
def test_written_through(tmp_path: Path, memory: MemoryFile, seed: int) -> None:
    """Below --rw the guest's changes are the host's, but for set-id bits."""
    native_root, shared = tmp_path / "native" / "root", tmp_path / "shared"
    native_root.mkdir(parents=True)
    shared.mkdir()
    populate(native_root)
    populate(shared)
    guest = Guest(HostInode(os.fsencode(shared)), memory)
    guest.task.fs.umask = 0
    os.umask(0)
    try:
        run_on_both(Native(native_root), guest, seed)
    finally:
        os.umask(0o022)
    assert snapshot(Native(shared)) == snapshot(guest)


@needs_root
def test_no_way_out_of_what_is_writable(tmp_path: Path, memory: MemoryFile) -> None:
    """A held directory keeps its identity when it is moved and a link to somewhere else takes its name."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    guest = Guest(HostInode(os.fsencode(tmp_path / "shared")), memory)
    guest.mkdir("/a")
    guest.mkdir("/a/b")
    held = guest.vfs.lookup(guest.task, None, "/a/b")
    guest.rename("/a", "/x")
    guest.symlink(os.fsdecode(outside), "/a")
    guest.vfs.open(guest.task, held, b"new", CREATE, 0o644).release()
    assert not (outside / "b/new").exists()
    assert (tmp_path / "shared/x/b/new").exists()


@needs_root
def test_no_set_id_files_on_the_host(tmp_path: Path, memory: MemoryFile) -> None:
    """A guest's chmod u+s below --rw leaves no set-id program on the host."""
    guest = Guest(HostInode(os.fsencode(tmp_path)), memory)
    guest.open("/f", CREATE, b"x")
    guest.chmod("/f", 0o6755)
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o755


def test_open_files_see_the_first_change(tmp_path: Path, memory: MemoryFile) -> None:
    """A description and a mapping made while the file was the host's show what is written later."""
    (tmp_path / "f").write_bytes(b"host")
    guest = Guest(host_overlay(memory, os.fsencode(tmp_path)), memory)
    before = guest.vfs.open(guest.task, None, "/f", os.O_RDONLY, 0)
    mapped = before.mappable()
    guest.open("/f", os.O_WRONLY | os.O_APPEND, b"+guest")
    assert before.read(100) == b"host+guest"
    assert before.stat().size == 10
    assert mapped.read_page_bytes(0, 100) == b"host+guest"
    assert mapped.translate(0, 4096, write=False).in_memory_file
    assert (tmp_path / "f").read_bytes() == b"host"


def test_places_follow_renames(tmp_path: Path, memory: MemoryFile) -> None:
    """Who is in a directory that is moved is in the new place; a moved directory cannot be moved below itself."""
    guest = Guest(host_overlay(memory, os.fsencode(tmp_path)), memory)
    guest.mkdir("/a")
    guest.mkdir("/a/b")
    guest.mkdir("/c")
    inside = guest.vfs.lookup(guest.task, None, "/a/b")
    guest.rename("/a", "/c/d")
    assert guest.vfs.path_of(inside, guest.vfs.root) == b"/c/d/b"
    above = guest.vfs.lookup(guest.task, inside, "../..")
    assert guest.vfs.path_of(above, guest.vfs.root) == b"/c"
    guest.task.fs.cwd = inside
    assert guest("rename", "/c", "e") == "EINVAL"


def test_host_tree_is_shown_as_it_is(memory: MemoryFile) -> None:
    """Every name and attribute of a real tree of the host, as os.walk and lstat tell them."""
    root = "/usr/share/perl5" if os.path.isdir("/usr/share/perl5") else os.path.dirname(os.__file__) + "/encodings"
    guest = Guest(host_overlay(memory, b"/"), memory)
    seen = 0
    for path, directories, files in os.walk(root):
        assert {os.fsencode(name) for name in directories + files} == set(guest.listing(path))
        for name in directories + files:
            host, found = (
                os.lstat(f"{path}/{name}"),
                guest.vfs.lookup(guest.task, None, f"{path}/{name}", False).inode.stat(),
            )
            assert found[:10] == (
                host.st_dev, host.st_ino, host.st_mode, host.st_nlink, host.st_uid, host.st_gid, host.st_rdev, host.st_size,
                host.st_blksize, host.st_blocks,
            )  # fmt: skip
            assert (found.mtime_ns, found.ctime_ns) == (host.st_mtime_ns, host.st_ctime_ns)
            seen += 1
        if seen > 2000:
            break
    assert seen


def test_control_file_systems_of_the_host_are_empty(memory: MemoryFile) -> None:
    """Neither the overlay nor what is written through shows the host's own /proc."""
    for root in (host_overlay(memory, b"/"), HostInode(b"/")):
        guest = Guest(root, memory)
        assert guest.listing("/proc") == []
        assert guest("stat", "/proc/self", True) == "ENOENT"


@needs_root
def test_directories_that_do_not_count(tmp_path: Path, memory: MemoryFile) -> None:
    """On overlayfs and btrfs every directory has one link: removing what is below does not make it a removed one."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    guest = Guest(host_overlay(memory, os.fsencode(tmp_path)), memory)
    node: Any = guest.vfs.lookup(guest.task, None, "/a").inode
    node.copy_up().nlink = 1
    assert guest("rmdir", "/a/b") is None
    assert guest("mkdir", "/a/c") is None
    assert guest("stat", "/a", True)[1] == 1


@needs_root
def test_device_number_stays(tmp_path: Path, memory: MemoryFile) -> None:
    """A file is on the same file system before and after the guest's first change, and so is a new one."""
    (tmp_path / "a").write_bytes(b"x")
    guest = Guest(host_overlay(memory, os.fsencode(tmp_path)), memory)
    before = guest.vfs.lookup(guest.task, None, "/a").inode.stat()
    guest.chmod("/a", 0o600)
    guest.mkdir("/b")
    after = [guest.vfs.lookup(guest.task, None, path).inode.stat() for path in ("/a", "/b")]
    assert [before.dev] * 2 == [found.dev for found in after]
    assert before.ino == after[0].ino


def test_read_only_from_the_start(tmp_path: Path, memory: MemoryFile) -> None:
    """Who makes a file below --rw without permission to write it may write by the descriptor it was made with."""
    guest = Guest(HostInode(os.fsencode(tmp_path)), memory)
    file = guest.vfs.open(guest.task, None, b"/f", CREATE | os.O_EXCL, 0o444)
    assert file.write(b"abc") == 3
    file.release()
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o444
