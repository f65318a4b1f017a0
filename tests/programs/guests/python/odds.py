"""Floating point, clocks, ids, limits, environment, random numbers."""

import math
import os
import random
import resource
import struct
import sys
import time

print(math.sin(1), math.fsum([0.1] * 10), float("nan"), 1e308 * 10, 2**0.5, struct.pack("d", math.pi).hex())
print(os.getuid(), os.getgid(), sorted(os.getgroups()), os.getsid(0) == os.getsid(os.getpid()))
print(os.sysconf("SC_PAGESIZE"), os.getpriority(0, 0), os.umask(0o77), os.sched_getscheduler(0))
print(os.nice(3), os.getpriority(0, 0), os.times().elapsed > 0)
print(resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
descriptors = []
try:
    while True:
        descriptors.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(error, max(descriptors))
before = time.monotonic_ns()
time.sleep(0.05)
print(time.monotonic_ns() - before >= 50_000_000, abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 1)
print(time.process_time() > 0, time.thread_time() > 0, time.strftime("%Y", time.gmtime(0)))
print(len(os.urandom(33)), len(set(random.sample(range(10**6), 50))), os.cpu_count() == len(os.sched_getaffinity(0)))
print(sys.stdin.read(), sys.stdin.isatty(), os.uname().sysname, os.uname().machine, sorted(os.environ)[:3])
sys.exit("a message on standard error")
