"""``systrap bench``: what a system call, a fault, a process cost here, beside what else one could have used."""
