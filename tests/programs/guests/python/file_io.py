"""Every way to move bytes and to change a descriptor, and how each fails."""
# ruff: noqa: ANN001, ANN002, E701, E702, SIM115, UP031 - a list of calls, one a line

import errno
import fcntl
import io
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile

d = tempfile.mkdtemp(dir="/tmp")
os.chdir(d)


def t(name, f):
    try:
        r = f()
    except OSError as e:
        r = "E:" + errno.errorcode.get(e.errno, str(e.errno))
    except Exception as e:
        r = "X:" + repr(e)
    print(name, r)


fd = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
t("write", lambda: os.write(fd, b"hello world"))
t("seek", lambda: os.lseek(fd, 0, 0))
t("read", lambda: os.read(fd, 5))
t("cur", lambda: os.lseek(fd, 0, 1))
t("end", lambda: os.lseek(fd, 0, 2))
t("neg", lambda: os.lseek(fd, -1, 0))
t("whence", lambda: os.lseek(fd, 0, 9))
t("pread", lambda: os.pread(fd, 5, 6))
t("preadneg", lambda: os.pread(fd, 5, -6))
t("pwrite", lambda: os.pwrite(fd, b"XX", 20))
t("size", lambda: os.fstat(fd).st_size)
t("pread2", lambda: os.pread(fd, 100, 0))
t("data", lambda: os.lseek(fd, 0, os.SEEK_DATA))
t("hole", lambda: os.lseek(fd, 0, os.SEEK_HOLE))
t("hole2", lambda: os.lseek(fd, 100, os.SEEK_HOLE))
t("readv", lambda: (os.lseek(fd, 0, 0), os.readv(fd, [b1 := bytearray(3), b2 := bytearray(4)]), bytes(b1), bytes(b2)))
t("writev", lambda: os.writev(fd, [b"abc", b"", b"def"]))
t("preadv", lambda: (os.preadv(fd, [b1 := bytearray(3), b2 := bytearray(4)], 2), bytes(b1), bytes(b2)))
t("pwritev", lambda: os.pwritev(fd, [b"1", b"2"], 3))
t("pwritev2app", lambda: (os.pwritev(fd, [b"1", b"2"], 0, 0x10), os.fstat(fd).st_size))
t("ro write", lambda: os.write(os.open("a", os.O_RDONLY), b"x"))
t("wo read", lambda: os.read(os.open("a", os.O_WRONLY), 1))
t("wo pread", lambda: os.pread(os.open("a", os.O_WRONLY), 1, 0))
t("dir read", lambda: os.read(os.open(".", os.O_RDONLY), 1))
t("dir read0", lambda: os.read(os.open(".", os.O_RDONLY), 0))
t("bad", lambda: os.read(999, 1))
t("badclose", lambda: os.close(999))
t("opath", lambda: os.read(os.open("a", os.O_PATH), 1))
t("opathfl", lambda: fcntl.fcntl(os.open("a", os.O_PATH), fcntl.F_GETFL))
t("opathlock", lambda: fcntl.flock(os.open("a", os.O_PATH), fcntl.LOCK_EX))
t("opathtrunc", lambda: os.ftruncate(os.open("a", os.O_PATH), 1))
t("opathfsync", lambda: os.fsync(os.open("a", os.O_PATH)))
r, w = os.pipe()
t("pipe seek", lambda: os.lseek(r, 0, 1))
t("pipe pread", lambda: os.pread(r, 1, 0))
t("pipe pread w", lambda: os.pread(w, 1, 0))
t("pipe pwrite", lambda: os.pwrite(w, b"a", 0))
t("pipe fsync", lambda: os.fsync(r))
t("pipe trunc", lambda: os.ftruncate(w, 1))
t("pipe rd w", lambda: os.read(w, 1))
t("pipe wr r", lambda: os.write(r, b"1"))
t("pipe read0", lambda: os.read(r, 0))
t("pipe write0", lambda: os.write(w, b""))
os.set_blocking(r, False)
t("pipe nb", lambda: os.read(r, 1))
os.set_blocking(w, False)

t("getpipe", lambda: fcntl.fcntl(r, 1032))
t("setpipe", lambda: fcntl.fcntl(r, 1031, 10000))
t("setpipe0", lambda: fcntl.fcntl(r, 1031, 0))
t("setpipebad", lambda: fcntl.fcntl(fd, 1032))
t("fionread", lambda: (os.write(w, b"abc"), struct.unpack("i", fcntl.ioctl(r, 0x541B, b"\0" * 4))))
t("fionread file", lambda: struct.unpack("i", fcntl.ioctl(fd, 0x541B, b"\0" * 4)))
t("tcgets file", lambda: fcntl.ioctl(fd, 0x5401, b"\0" * 60))
t("tcgets null", lambda: fcntl.ioctl(os.open("/dev/null", 2), 0x5401, b"\0" * 60))
t("tcgets dir", lambda: fcntl.ioctl(os.open(".", 0), 0x5401, b"\0" * 60))
t("figetbsz", lambda: struct.unpack("i", fcntl.ioctl(fd, 2, b"\0" * 4)))
t("ficlone", lambda: fcntl.ioctl(fd, 0x40049409, fd))
t("getfl", lambda: oct(fcntl.fcntl(fd, fcntl.F_GETFL)))
t("getfl pipe", lambda: oct(fcntl.fcntl(r, fcntl.F_GETFL)))
t("getfl null", lambda: oct(fcntl.fcntl(os.open("/dev/null", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC), fcntl.F_GETFL)))
t("getfl app", lambda: oct(fcntl.fcntl(os.open("a", os.O_WRONLY | os.O_APPEND | os.O_SYNC), fcntl.F_GETFL)))
t("getfl dir", lambda: oct(fcntl.fcntl(os.open(".", os.O_DIRECTORY), fcntl.F_GETFL)))
t(
    "setfl",
    lambda: (
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK | os.O_WRONLY),
        oct(fcntl.fcntl(fd, fcntl.F_GETFL)),
    ),
)
t("append", lambda: (os.lseek(fd, 0, 0), os.write(fd, b"tail"), os.lseek(fd, 0, 1), os.fstat(fd).st_size))
t("append pwrite", lambda: (os.pwrite(fd, b"tail", 0), os.lseek(fd, 0, 1), os.fstat(fd).st_size))
fcntl.fcntl(fd, fcntl.F_SETFL, 0)
t("getfd", lambda: fcntl.fcntl(fd, fcntl.F_GETFD))
t("dupfd", lambda: fcntl.fcntl(fd, fcntl.F_DUPFD, 100))
t("dupfdcx", lambda: (x := fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100), fcntl.fcntl(x, fcntl.F_GETFD)))
t("dupfdbad", lambda: fcntl.fcntl(fd, fcntl.F_DUPFD, 10000000))
t("dupfdneg", lambda: fcntl.fcntl(fd, fcntl.F_DUPFD, -1))
t("dup2", lambda: os.dup2(fd, 50))
t("dup2same", lambda: os.dup2(fd, fd))
t("dup2bad", lambda: os.dup2(998, 50))
t("dup2big", lambda: os.dup2(fd, 100000000))
t("badcmd", lambda: fcntl.fcntl(fd, 9999))
t("own", lambda: (fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid()), fcntl.fcntl(r, fcntl.F_GETOWN) == os.getpid()))
t("ownbad", lambda: fcntl.fcntl(r, fcntl.F_SETOWN, 3999999))
t("sig", lambda: (fcntl.fcntl(r, fcntl.F_SETSIG, 10), fcntl.fcntl(r, fcntl.F_GETSIG)))
t("sigbad", lambda: fcntl.fcntl(r, fcntl.F_SETSIG, 100))
t("getlease", lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE))
t("trunc", lambda: (os.ftruncate(fd, 3), os.fstat(fd).st_size))
t("truncneg", lambda: os.ftruncate(fd, -3))
t("truncro", lambda: os.ftruncate(os.open("a", os.O_RDONLY), 3))
t("fallocate", lambda: (os.posix_fallocate(fd, 100, 100), os.fstat(fd).st_size))
t("fallocate0", lambda: os.posix_fallocate(fd, 100, 0))
t("fallocate pipe", lambda: os.posix_fallocate(w, 100, 10))
t("fallocate ro", lambda: os.posix_fallocate(os.open("a", 0), 100, 10))
t("fadvise", lambda: os.posix_fadvise(fd, 0, 0, 2))
t("fadvise bad", lambda: os.posix_fadvise(fd, 0, 0, 77))
t("fadvise pipe", lambda: os.posix_fadvise(r, 0, 0, 0))


# locks
def lk(f, typ, start=0, ln=0, cmd=fcntl.F_SETLK, whence=0):
    return struct.unpack("hhqqi4x", fcntl.fcntl(f, cmd, struct.pack("hhqqi4x", typ, whence, start, ln, 0)))


def child(fn):
    sys.stdout.flush()
    p = os.fork()
    if p == 0:
        try:
            fn()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(p, 0)


t("lk w", lambda: lk(fd, 1, 10, 10))


def c():
    g = os.open("a", os.O_RDWR)
    t(" c lk", lambda: lk(g, 1, 15, 1))
    t(" c lkr", lambda: lk(g, 0, 19, 5))
    t(" c lk other", lambda: lk(g, 1, 20, 5))
    t(" c getlk", lambda: lk(g, 1, 0, 0, fcntl.F_GETLK)[:4])
    t(" c getlk none", lambda: lk(g, 1, 30, 2, fcntl.F_GETLK))


child(c)
t("unlk part", lambda: lk(fd, 2, 12, 3))


def c2():
    g = os.open("a", os.O_RDWR)
    t(" c lk", lambda: lk(g, 1, 12, 3))
    t(" c lk10", lambda: lk(g, 1, 10, 3))
    t(" c getlk", lambda: lk(g, 1, 13, 0, fcntl.F_GETLK)[:4])


child(c2)
t("close other", lambda: os.close(os.open("a", 0)))


def c3():
    g = os.open("a", os.O_RDWR)
    t(" c3 lk", lambda: lk(g, 1, 0, 0))


child(c3)
t("lk ro w", lambda: lk(os.open("a", 0), 1))
t("lk bad", lambda: lk(fd, 7))
t("lk whence", lambda: lk(fd, 1, whence=9))
t("lk neg", lambda: lk(fd, 1, -1))
t("lk pipe", lambda: lk(w, 1))
t("flock", lambda: fcntl.flock(fd, fcntl.LOCK_EX))
g = os.open("a", os.O_RDWR)
t("flock2", lambda: fcntl.flock(g, fcntl.LOCK_SH | fcntl.LOCK_NB))
t("flock sh", lambda: fcntl.flock(fd, fcntl.LOCK_SH))
t("flock2", lambda: fcntl.flock(g, fcntl.LOCK_SH | fcntl.LOCK_NB))
t("flock2ex", lambda: fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB))
t("flock un", lambda: (fcntl.flock(fd, fcntl.LOCK_UN), fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)))
os.close(g)
t("flock after", lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
t("flockbad", lambda: fcntl.flock(fd, 0))
t("ofd", lambda: lk(fd, 1, 0, 0, 37))
g = os.open("a", os.O_RDWR)
t("ofd2", lambda: lk(g, 1, 0, 0, 37))
t("ofdget", lambda: lk(g, 1, 0, 0, 36))
# copy
src = os.open("s", os.O_RDWR | os.O_CREAT)
os.write(src, b"0123456789" * 1000)
dst = os.open("t", os.O_RDWR | os.O_CREAT)
t("sendfile", lambda: os.sendfile(dst, src, 10, 100))
t("sendfile big", lambda: os.sendfile(dst, src, 9990, 100))
t("sendfile end", lambda: os.sendfile(dst, src, 10000, 100))
t("sendfile neg", lambda: os.sendfile(dst, src, -1, 100))
t("cfr", lambda: (os.copy_file_range(src, dst, 100, 0, 500), os.fstat(dst).st_size))
t("cfr overlap", lambda: os.copy_file_range(src, src, 100, 0, 50))
t("cfr pipe", lambda: os.copy_file_range(src, w, 100, 0))
r2, w2 = os.pipe()
t("splice", lambda: os.splice(src, w2, 1000, offset_src=0))
t("splice2", lambda: os.splice(r2, dst, 1000))
t("splice ff", lambda: os.splice(src, dst, 1000))
t("sendfile pipe", lambda: os.sendfile(w2, src, 0, 1000))
t("read", lambda: len(os.read(r2, 5000)))
os.close(r2)
signal.signal(signal.SIGPIPE, lambda *a: print("SIGPIPE"))
t("epipe", lambda: os.write(w2, b"x"))
m = os.memfd_create("foo", os.MFD_ALLOW_SEALING)
t("memfd link", lambda: os.readlink("/proc/self/fd/%d" % m))
t("memfd w", lambda: os.write(m, b"hello"))
t("seal", lambda: fcntl.fcntl(m, 1033, 2 | 4))
t("getseals", lambda: fcntl.fcntl(m, 1034))
t("shrink", lambda: os.ftruncate(m, 1))
t("grow", lambda: os.ftruncate(m, 10))
t("wr", lambda: os.write(m, b"zz"))
t("pwr", lambda: os.pwrite(m, b"zz", 0))
t("sealw", lambda: (fcntl.fcntl(m, 1033, 8), os.pwrite(m, b"zz", 0)))
t("memfd mode", lambda: oct(os.fstat(m).st_mode))
t("memfd reopen", lambda: os.read(os.open("/proc/self/fd/%d" % m, 0), 10))
m2 = os.memfd_create("x")
t("seal2", lambda: fcntl.fcntl(m2, 1033, 1))
t("getseals2", lambda: fcntl.fcntl(m2, 1034))
t("null r", lambda: os.read(os.open("/dev/null", 0), 10))
t("zero r", lambda: os.read(os.open("/dev/zero", 0), 4))
t("full w", lambda: os.write(os.open("/dev/full", 1), b"a"))
t("full r", lambda: os.read(os.open("/dev/full", 0), 2))
t("null seek", lambda: os.lseek(os.open("/dev/null", 0), 10, 0))
t("zero seek", lambda: os.lseek(os.open("/dev/zero", 0), 10, 0))
t("urandom", lambda: len(os.read(os.open("/dev/urandom", 0), 10000)))
t("null pread", lambda: os.pread(os.open("/dev/null", 0), 10, 5))
t("null trunc", lambda: os.ftruncate(os.open("/dev/null", 1), 5))
t("null fsync", lambda: os.fsync(os.open("/dev/null", 1)))
t("big zero", lambda: len(os.read(os.open("/dev/zero", 0), 10000000)))
t("mmap zero", lambda: mmap.mmap(os.open("/dev/zero", 2), 4096)[:4])
t("mmap file", lambda: mmap.mmap(src, 4096)[:4])
t("big", lambda: os.write(dst, b"q" * 5000000))
t("bigr", lambda: (os.lseek(dst, 0, 0), len(os.read(dst, 5100000))))
held = sys.stdout
sys.stdout = io.StringIO()
signal.signal(signal.SIGXFSZ, lambda *a: print("XFSZ"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
x = os.open("lim", os.O_RDWR | os.O_CREAT)
t("lim", lambda: os.write(x, b"q" * 1500))
t("lim2", lambda: os.write(x, b"q" * 1500))
t("limtr", lambda: os.ftruncate(x, 1500))
t("limpipe", lambda: os.write(w, b"q" * 1500))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
held.write(sys.stdout.getvalue())
sys.stdout = held
