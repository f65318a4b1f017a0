"""The systrap platform: seccomp traps in stub processes, shared memory, futexes. Start reading at platform.py."""
