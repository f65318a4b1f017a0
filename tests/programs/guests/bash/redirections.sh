# Descriptors: duplicated, moved, closed, swapped, open for both, full, missing.
exec 3>&1; { echo out; echo err >&2; } 2>&1 >&3 | sed 's/^/pipe: /'; exec 3>&-; echo x >&3
ls /nope 2>&1; echo gone > /dev/full; cat < /nope
exec 7<>/dev/null; readlink /proc/$$/fd/7; exec 7>&-; ls /proc/self/fd | wc -l
d=$(mktemp -d); cd "$d"
echo one > f; echo two >> f; cat f; exec 5< f; read -u 5 a; read -u 5 b; echo $a $b
set -C; echo three > f; echo $?; echo three >| f; cat f
(echo a; echo b >&2) > both 2>&1; cat both; ls > /dev/null nosuch; echo $?
echo text 1<> f; cat f; cat f > f; wc -c < f
ulimit -n 17; ulimit -n; ulimit -S -s 1024; ulimit -s; ulimit -f 1; (trap '' XFSZ; head -c 5000 /dev/zero > big); stat -c %s big
cd /; rm -r "$d"
cat < /etc/passwd > /dev/null && echo read; echo to stderr >&2; exec >&-; echo closed; exit 4
