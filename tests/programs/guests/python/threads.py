"""Threads: queues, locks, conditions, time-outs, many of them, and what a fork leaves of them."""

import os
import queue
import threading
import time

results: "queue.Queue[int]" = queue.Queue()


def worker(number: int) -> None:
    time.sleep(0.01 * (5 - number))
    results.put(number)


threads = [threading.Thread(target=worker, args=(i,)) for i in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(results.queue))

lock = threading.Lock()
count = 0


def add() -> None:
    global count
    for _ in range(4000):
        with lock:
            count += 1


threads = [threading.Thread(target=add) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(count)

print(threading.Event().wait(0.05))
condition = threading.Condition()
with condition:
    print(condition.wait(0.05))
barrier = threading.Barrier(6)
threads = [threading.Thread(target=barrier.wait) for _ in range(5)]
for thread in threads:
    thread.start()
barrier.wait()
for thread in threads:
    thread.join()
print(threading.active_count())

stop = threading.Event()
spinner = threading.Thread(target=stop.wait)
spinner.start()
child = os.fork()
if child == 0:
    os._exit(threading.active_count())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(len(os.listdir("/proc/self/task")))
stop.set()
spinner.join()

seen = []
threads = [threading.Thread(target=lambda: seen.append(threading.get_native_id())) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(seen), os.getpid() in seen)
