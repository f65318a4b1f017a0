"""The host kernel as typed functions. The only place where ctypes meets libc."""
