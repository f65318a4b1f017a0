# What programs read in /proc, /dev and /sys.
cat /proc/self/comm; tr '\0' ' ' < /proc/self/cmdline; echo; readlink /proc/self/exe; readlink /proc/self/cwd
cat /proc/$$/comm; grep -E '^(Name|State|Threads|PPid)' /proc/self/status | sed 's/PPid.*/PPid/'
tail -1 /proc/self/maps | grep -c vsyscall\\\|stack; (exec -a newname cat /proc/self/cmdline | tr '\0' ' '); echo
[ "$(cut -d' ' -f1 /proc/$$/stat)" = $$ ] && echo stat; [ -d /proc/$$/task/$$ ] && echo task; ls -d /proc/1 /proc/self
head -c 8 /dev/zero | od -c; head -c 10 /dev/urandom | wc -c; echo x > /dev/null; cat /dev/null; ls -l /dev/null | cut -c 1-10
[ -c /dev/tty ] && echo tty; readlink /dev/stdin > /dev/null && echo stdin; ls /dev/fd/ | head -3; nproc | grep -c .
grep -c processor /proc/cpuinfo | grep -c .; grep MemTotal /proc/meminfo | wc -l; cut -d' ' -f1 /proc/loadavg | wc -l; cat /proc/sys/kernel/ostype
awk '{print NF}' /proc/uptime; cat /proc/filesystems | grep -c proc; [ -r /proc/mounts ] && grep -c ' / ' /proc/mounts; echo $(( $(cat /proc/sys/kernel/pid_max) > 1000 ))
