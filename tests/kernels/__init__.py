"""Kernels that people have: Debian's, booted in an emulated machine, with a command of ours inside. ``python3 -m tests.kernels``.

What differs between Linux 5.10 and 6.12, between x86-64 and arm64, and between 4K and 16K pages cannot be seen on one host. So
this makes machines: qemu without KVM, a kernel package of Debian's, a root file system of Debian packages with Python in it, and
the project's tree. Needs a Debian (or a derivative) with apt, a network the first time, and nothing else.

* ``catalog.py``: the kernels, and what the root file system is made of;
* ``debian.py``: packages, checked by apt as always, without touching what is installed here;
* ``cpio.py``, ``image.py``: the files qemu boots, kept in ``$XDG_CACHE_HOME/systrap-vm`` (``~/.cache``);
* ``machine.py``: one boot, one command: its output, its status, a deadline;
* ``inside/``: what runs in the machine;
* ``jobs.py``, ``table.py``: what is measured, and docs/kernels.md.

Emulated on x86-64, arm64 has x86-64's strong memory order: nothing here shows a missing barrier (docs/memory-order.md).
"""
