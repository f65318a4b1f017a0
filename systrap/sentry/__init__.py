"""A small guest kernel, single-threaded and lock-free, written against ``systrap.platform``. Start reading at kernel.py."""
