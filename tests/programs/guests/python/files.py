"""Files: mappings shared and private, renames, links, locks, times, directories by descriptor, errors."""

import errno
import fcntl
import mmap
import os
import shutil
import tempfile

folder = tempfile.mkdtemp()
path = f"{folder}/f"
with open(path, "wb") as file:
    file.write(b"a" * 10000)
with open(path, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
    private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    private[0:3] = b"ppp"
    shared[5:8] = b"XYZ"
    shared.flush()
    print(os.pread(file.fileno(), 10, 0), private[:10])
    os.pwrite(file.fileno(), b"written", 4096)
    print(shared[4096:4103])
    fcntl.flock(file, fcntl.LOCK_EX)
    with open(path, "rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            print(errno.errorcode[error.errno or 0])
    shared.close()
    private.close()
os.rename(path, f"{folder}/g")
print(os.listdir(folder))
os.symlink("g", f"{folder}/l")
os.link(f"{folder}/g", f"{folder}/h")
print(os.lstat(f"{folder}/l").st_size, os.readlink(f"{folder}/l"), os.stat(f"{folder}/l").st_nlink)
os.truncate(f"{folder}/g", 3)
with open(f"{folder}/l") as file:
    print(file.read())
os.utime(f"{folder}/g", ns=(1_000_000_001, 2_000_000_003))
print(os.stat(f"{folder}/h").st_mtime_ns)
descriptor = os.open(folder, os.O_RDONLY)
print(sorted(os.listdir(descriptor)))
os.unlink("h", dir_fd=descriptor)
os.mkdir("d", dir_fd=descriptor)
print(sorted(e.name + str(e.is_dir()) + str(e.is_symlink()) for e in os.scandir(folder)))
unlinked = os.open("g", os.O_RDWR, dir_fd=descriptor)
os.unlink(f"{folder}/g")
os.write(unlinked, b"still here")
print(os.pread(unlinked, 99, 0), os.fstat(unlinked).st_nlink)
os.lseek(unlinked, 100000, os.SEEK_SET)
os.write(unlinked, b"end")
print(os.fstat(unlinked).st_size, os.pread(unlinked, 3, 50000))
for attempt in (
    lambda: os.open("/etc/passwd/x", os.O_RDONLY),
    lambda: os.open(folder, os.O_WRONLY),
    lambda: os.rmdir("/"),
    lambda: os.readlink("/etc"),
    lambda: os.mkdir(folder),
    lambda: os.rmdir(folder),
    lambda: os.open("x" * 300, os.O_RDONLY),
    lambda: os.read(999, 1),
    lambda: os.write(descriptor, b""),
    lambda: os.lseek(os.pipe()[0], 0, 0),
    lambda: os.rename(folder, f"{folder}/d/e"),
    lambda: os.ftruncate(unlinked, -1),
):
    try:
        attempt()
    except OSError as error:
        print(errno.errorcode[error.errno or 0])
shutil.rmtree(folder)
anonymous = mmap.mmap(-1, 8192)
anonymous[:3] = b"abc"
if not os.fork():
    anonymous[:3] = b"xyz"
    os._exit(0)
os.wait()
print(anonymous[:3])
