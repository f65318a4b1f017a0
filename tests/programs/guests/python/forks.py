"""Fork, wait in all its forms, sessions and groups, zombies and orphans."""

import os
import time

for number in range(5):
    pid = os.fork()
    if not pid:
        os._exit(number)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try:
    os.wait()
except ChildProcessError as error:
    print(error)

pid = os.fork()
if not pid:
    os.setsid()
    print(os.getsid(0) == os.getpid() == os.getpgid(0), flush=True)
    os._exit(0)
info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
assert info is not None
print(info.si_pid == pid, info.si_status, info.si_code == os.CLD_EXITED)
print(os.waitpid(pid, 0)[1])

pid = os.fork()
if not pid:
    time.sleep(9)
print(os.waitpid(pid, os.WNOHANG))
os.kill(pid, 19)
print(os.waitpid(pid, os.WUNTRACED)[1])
os.kill(pid, 18)
print(os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1]))
os.kill(pid, 15)
print(os.waitpid(pid, 0)[1])

# An orphan is inherited by another process.
readable, writable = os.pipe()
pid = os.fork()
if not pid:
    me = os.getpid()
    if not os.fork():
        while os.getppid() == me:
            time.sleep(0.01)
        os.write(writable, b"inherited")
    os._exit(0)
os.waitpid(pid, 0)
print(os.read(readable, 20))

data = bytearray(2_000_000)
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        data[number * 4096] = number + 1
        os._exit(sum(data))
    pids.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], sum(data))
print(os.waitstatus_to_exitcode(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}) and os.wait()[1]))
