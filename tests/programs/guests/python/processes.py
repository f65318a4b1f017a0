"""multiprocessing with fork: pipes, shared values with semaphores, pools."""

import multiprocessing

context = multiprocessing.get_context("fork")
receiver, sender = context.Pipe()


def send() -> None:
    sender.send([1, 2, 3])
    sender.close()


process = context.Process(target=send)
process.start()
print(receiver.recv())
process.join()
print(process.exitcode)

value = context.Value("i", 0)


def add() -> None:
    for _ in range(200):
        with value.get_lock():
            value.value += 1


processes = [context.Process(target=add) for _ in range(3)]
for process in processes:
    process.start()
for process in processes:
    process.join()
print(value.value)


def square(number: int) -> int:
    return number * number


with context.Pool(3) as pool:
    print(pool.map(square, range(20)))
