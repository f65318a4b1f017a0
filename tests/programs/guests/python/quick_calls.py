"""Random short system calls with signals, timers, pipes and threads in between: each result is what it was to be, and once."""

import fcntl
import os
import random
import signal
import threading
import time

random.seed(20)
readable, writable = os.pipe()
left, right = os.pipe()
os.set_blocking(readable, False)
seen = {"signals": 0, "alarms": 0}
log = []


def handle(*_):
    seen["signals"] += 1


def ring(*_):
    seen["alarms"] += 1


signal.signal(signal.SIGUSR1, handle)
signal.signal(signal.SIGALRM, ring)
pid, me, written, sent = os.getpid(), threading.get_ident(), 0, 0


def echo():
    while data := os.read(left, 100):
        answers.append(data)


answers = []
helper = threading.Thread(target=echo)
helper.start()
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)
for number in range(3000):
    what = random.randrange(12)
    if what == 0:
        signal.pthread_kill(me, signal.SIGUSR1)
        sent += 1
        log.append(seen["signals"] == sent)
    elif what == 1:
        written += os.write(writable, bytes([number % 256]) * random.randrange(1, 9))
    elif what == 2:
        try:
            written -= len(os.read(readable, 7))
        except BlockingIOError:
            log.append(("nothing to read", written))
    elif what == 3:
        log.append(os.getppid() > 0 and os.getpid() == pid and os.getuid() == os.geteuid())
    elif what == 4:
        os.write(right, b"%d." % number)
    elif what == 5:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        signal.pthread_kill(me, signal.SIGUSR1)
        signal.pthread_kill(me, signal.SIGUSR1)
        log.append((seen["signals"] == sent, signal.SIGUSR1 in signal.sigpending()))
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        sent += 1
        log.append(seen["signals"] == sent)
    elif what == 6:
        try:
            os.close(1000 + number)
        except OSError as error:
            log.append(error.errno)
    elif what == 7:
        log.append(fcntl.fcntl(readable, fcntl.F_GETFL) & os.O_NONBLOCK)
    elif what == 8:
        copy = os.dup(writable)
        log.append(os.fstat(copy).st_ino == os.fstat(writable).st_ino)
        os.close(copy)
    elif what == 9:
        log.append(os.sched_yield())
    elif what == 10:
        log.append(os.umask(number % 64) < 64 if number > 63 else os.umask(18) >= 0)
    else:
        log.append(os.lseek(os.memfd_create("x"), number, os.SEEK_SET) if number < 200 else time.monotonic() > 0)
signal.setitimer(signal.ITIMER_REAL, 0)
os.close(right)
helper.join()
print(len(log))
for entry in log:
    print(entry)
print(b"".join(answers), written, sent, seen["signals"] == sent, seen["alarms"] > 0)
