"""The system calls, by subject. table.py binds numbers to handlers."""
