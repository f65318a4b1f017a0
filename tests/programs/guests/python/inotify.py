"""inotify: what each change of a directory and its files tells."""
# ruff: noqa: ANN001, E701, E702, SIM115 - a list of calls

import ctypes
import os
import select
import struct
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
d = tempfile.mkdtemp()
fd = libc.inotify_init1(0o4000)


def add(p, m=0xFFF):
    r = libc.inotify_add_watch(fd, p.encode(), ctypes.c_uint32(m))
    print("add", r, ctypes.get_errno() if r < 0 else 0)
    return r


def show(tag, order=True):
    print("--", tag)
    try:
        b = os.read(fd, 65536)
    except BlockingIOError:
        print("none")
        return
    ck = {}
    lines = []
    while b:
        wd, m, c, n = struct.unpack_from("iIII", b)
        name = b[16 : 16 + n].rstrip(b"\0")
        b = b[16 + n :]
        lines.append((wd, hex(m), ck.setdefault(c, len(ck)), name, n))
    for line in lines if order else sorted(lines):
        print(*line)


add(d)
show("nothing")
f = open(d + "/a", "w")
show("create")
f.write("x")
f.flush()
show("write")
f.close()
show("close")
w = add(d + "/a")
open(d + "/a").read()
show("read both")
os.chmod(d + "/a", 0o600)
show("chmod")
os.rename(d + "/a", d + "/b")
show("rename")
os.mkdir(d + "/dir")
show("mkdir")
os.listdir(d + "/dir")
show("list")
os.rmdir(d + "/dir")
show("rmdir")
os.symlink("b", d + "/l")
show("symlink")
os.link(d + "/b", d + "/hard")
show("link")
os.unlink(d + "/hard")
show("unl hard")
open(d + "/b", "w").close()
show("trunc", order=False)  # Linux tells of the truncation first or of the open, by its version
os.truncate(d + "/b", 5)
show("truncate")
os.unlink(d + "/b")
show("unlink")
print(libc.inotify_rm_watch(fd, w), ctypes.get_errno())
add(d + "/nope")
add(d, 0)
print(libc.inotify_rm_watch(fd, 1))
show("rm")
print(select.select([fd], [], [], 0)[0])
add(d, 0x80000000 | 0x100)
open(d + "/one", "w").close()
print(len(select.select([fd], [], [], 0)[0]))
show("oneshot")
