"""Calls on files that wait, are interrupted, and end; and files below /proc and /dev."""
# ruff: noqa: ANN001, ANN002, E701, E702, SIM115, UP031, N802, N818 - a list of calls, one a line

import errno
import fcntl
import os
import select
import signal
import struct
import tempfile
import threading
import time

LOCK = tempfile.mkdtemp() + "/lock"


def t(name, f):
    try:
        r = f()
    except OSError as e:
        r = "E:" + errno.errorcode.get(e.errno, str(e.errno))
    except Exception as e:
        r = "X:" + repr(e)
    print(name, r, flush=True)


# big blocking write through pipe
r, w = os.pipe()
p = os.fork()
if p == 0:
    os.close(w)
    n = 0
    while True:
        d = os.read(r, 3333)
        if not d:
            break
        n += len(d)
    print("child", n, flush=True)
    os._exit(0)
os.close(r)
t("bigw", lambda: os.write(w, b"z" * 3000000))
t("writev", lambda: os.writev(w, [b"z" * 300000] * 5))
os.close(w)
os.waitpid(p, 0)
# interrupted partial write
r, w = os.pipe()


class A(Exception):
    pass


def h(*a):
    raise A


signal.signal(signal.SIGALRM, lambda *a: None)
signal.setitimer(signal.ITIMER_REAL, 0.2)
t("partial", lambda: os.write(w, b"q" * 100000))
signal.signal(signal.SIGALRM, h)
signal.setitimer(signal.ITIMER_REAL, 0.2)
t("intr w", lambda: os.write(w, b"q" * 100))
print(len(os.read(r, 200000)))
signal.setitimer(signal.ITIMER_REAL, 0.2)
t("intr r", lambda: os.read(r, 100))
# sigpipe kills
p = os.fork()
if p == 0:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    a, b = os.pipe()
    os.close(a)
    os.write(b, b"x")
    os._exit(0)
print(os.waitpid(p, 0)[1])
# lock wait
fd = os.open(LOCK, os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
p = os.fork()
if p == 0:
    s = time.time()
    fcntl.lockf(fd, fcntl.LOCK_EX)
    print("got", 0.2 < time.time() - s < 3, flush=True)
    os._exit(0)
time.sleep(0.4)
fcntl.lockf(fd, fcntl.LOCK_UN)
os.waitpid(p, 0)
fcntl.flock(fd, fcntl.LOCK_EX)
p = os.fork()
if p == 0:
    g = os.open(LOCK, os.O_RDWR)
    s = time.time()
    fcntl.flock(g, fcntl.LOCK_EX)
    print("got", 0.2 < time.time() - s < 3, flush=True)
    os._exit(0)
time.sleep(0.4)
fcntl.flock(fd, fcntl.LOCK_UN)
os.close(fd)
os.waitpid(p, 0)
# deadlock
fd = os.open(LOCK, os.O_RDWR)


def L(f, typ, s, n, cmd):
    fcntl.fcntl(f, cmd, struct.pack("hhqqi4x", typ, 0, s, n, 0))


L(fd, 1, 0, 1, fcntl.F_SETLK)
r2, w2 = os.pipe()
p = os.fork()
if p == 0:
    L(fd, 1, 1, 1, fcntl.F_SETLK)
    os.write(w2, b"1")
    L(fd, 1, 0, 1, fcntl.F_SETLKW)
    print("child got", flush=True)
    os._exit(0)
os.read(r2, 1)
time.sleep(0.2)
t("deadlk", lambda: L(fd, 1, 1, 1, fcntl.F_SETLKW))
L(fd, 2, 0, 1, fcntl.F_SETLK)
os.waitpid(p, 0)
# interrupted lock
L(fd, 1, 0, 1, fcntl.F_SETLK)
p = os.fork()
if p == 0:
    signal.signal(signal.SIGALRM, h)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    t("lk intr", lambda: L(fd, 1, 0, 1, fcntl.F_SETLKW))
    os._exit(0)
os.waitpid(p, 0)
# lock dropped by exit
r3, w3 = os.pipe()
p = os.fork()
if p == 0:
    L(fd, 1, 50, 1, fcntl.F_SETLK)
    os._exit(0)
os.waitpid(p, 0)
t("after exit", lambda: L(fd, 1, 50, 1, fcntl.F_SETLK))
# close in thread while reading
r, w = os.pipe()
th = threading.Thread(target=lambda: t("thr", lambda: os.read(r, 10)))
th.start()
time.sleep(0.2)
os.write(w, b"hi")
th.join()
# fifo via /proc
r, w = os.pipe()
x = os.open("/proc/self/fd/%d" % r, os.O_WRONLY)
t("reopen w", lambda: (os.write(x, b"via"), os.read(r, 10)))
t("reopen rdwr", lambda: os.open("/dev/fd/%d" % w, os.O_RDWR) > 0)
p = os.fork()
if p == 0:
    time.sleep(0.2)
    os.write(w, b"spliced")
    os._exit(0)
a, b = os.pipe()
t("splice", lambda: os.splice(r, b, 100))
print(os.read(a, 100))
os.waitpid(p, 0)
t("proc", lambda: open("/proc/self/status").readline())
t("noproc", lambda: open("/proc/99999/status"))
t("procwrite", lambda: open("/proc/version", "w"))
t("proccreate", lambda: open("/proc/foo", "w"))
t("procmkdir", lambda: os.mkdir("/proc/foo"))
t("procunlink", lambda: os.unlink("/proc/version"))
t("devnew", lambda: os.mkdir("/proc/self/x"))
t("fdinfo", lambda: open("/proc/self/fdinfo/0").read().split("\n")[0])
t("readlink pipe", lambda: os.readlink("/proc/self/fd/%d" % r).split(":")[0])
t("stat pipe", lambda: oct(os.stat("/proc/self/fd/%d" % r).st_mode))
t("lstat", lambda: oct(os.lstat("/proc/self/fd/%d" % r).st_mode))
t("listdir", lambda: sorted(os.listdir("/proc/self/task")) == [str(os.getpid())])
t("cwd", lambda: os.readlink("/proc/self/cwd") == os.getcwd())
t("chdir", lambda: (os.chdir("/proc/self/cwd"), os.getcwd()))
t(
    "deleted",
    lambda: (
        bool(f := open(LOCK + "del", "w")),
        os.unlink(LOCK + "del"),
        os.readlink("/proc/self/fd/%d" % f.fileno())[-17:],
        os.stat("/proc/self/fd/%d" % f.fileno()).st_nlink,
        open("/proc/self/fd/%d" % f.fileno()).read(),
    ),
)
f = open("/proc/self/stat")
a = f.read(10)
t("mem", lambda: len(open("/proc/self/mem", "rb", 0).read(1)))
t("proc seek end", lambda: os.lseek(os.open("/proc/self/status", 0), 0, 2))
t("proc pread", lambda: os.pread(os.open("/proc/self/status", 0), 5, 0))
t("proc size", lambda: os.stat("/proc/self/status").st_size)
t("proc append", lambda: os.path.exists("/proc/self/fd/77"))
t("environ", lambda: open("/proc/self/environ", "rb").read()[:0])
t("oom", lambda: (open("/proc/self/oom_score_adj", "w").write("5"), open("/proc/self/oom_score_adj").read()))
t("oombad", lambda: os.write(os.open("/proc/self/oom_score_adj", 1), b"abc"))
t("epoll file", lambda: select.epoll().register(os.open("/etc/passwd", 0), 1))
t("epoll null", lambda: select.epoll().register(os.open("/dev/null", 0), 1))
t("epoll dir", lambda: select.epoll().register(os.open("/", 0), 1))
t("statfs proc", lambda: os.statvfs("/proc").f_bsize)
t("access", lambda: os.access("/proc/self/status", os.W_OK))
t("dev ls", lambda: "null" in os.listdir("/dev"))
t(
    "mknod",
    lambda: (
        os.mknod(LOCK + "null", 0o20666, os.makedev(1, 3)),
        os.write(os.open(LOCK + "null", 2), b"hi"),
        os.read(os.open(LOCK + "null", 2), 4),
    ),
)
