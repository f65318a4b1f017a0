"""Signals as Python uses them: handlers, timers, wake-up descriptors, masks, waiting for them."""

import os
import signal
import threading
import time

signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.1)
signal.pause()

readable, writable = os.pipe()
os.set_blocking(writable, False)
signal.set_wakeup_fd(writable)
os.kill(os.getpid(), signal.SIGALRM)
print(os.read(readable, 1))

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR1)
print(signal.sigpending())
print(signal.sigwait([signal.SIGUSR1]))
print(signal.sigpending())
print(signal.sigtimedwait([signal.SIGUSR2], 0.05))

# A signal between the two halves of a sleep: Python goes on sleeping for the rest.
signal.setitimer(signal.ITIMER_REAL, 0.05)
began = time.monotonic()
time.sleep(0.2)
print(0.19 < time.monotonic() - began < 5)

ticks = []
signal.signal(signal.SIGVTALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.02, 0.02)
while len(ticks) < 3:
    sum(range(1000))
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
print("ticked")

signal.signal(signal.SIGUSR2, lambda *_: print("usr2 in", threading.current_thread().name))
thread = threading.Thread(target=lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2))
thread.start()
thread.join()

child = os.fork()
if child == 0:
    signal.pause()
    os._exit(0)
time.sleep(0.05)
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
os.kill(os.getpid(), signal.SIGSEGV)
