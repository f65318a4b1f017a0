# Text tools.
seq 200 | shuf --random-source=/bin/ls | sort -n | uniq -c | cut -c 5- | paste - - - | head -7
printf 'a b\nc d\n' | join - <(printf 'a 1\nc 2\n'); comm <(seq 1 5) <(seq 3 7); seq 3 | tac; yes | head -3
head -c 100000 /dev/zero | dd bs=1000 count=50 iflag=fullblock status=none | md5sum; expr 7 \* 6; numfmt --to=iec 123456789
basename /a/b.c .c; dirname /a/b.c; date -u -d @86400 +%F; test -d /etc && echo dir
seq 1 500 | tr '\n' ' ' | fold -w 60 | nl | tail -3; seq 20 | xargs -n 3 echo; seq 8 | xargs -P 3 -I{} sh -c 'exit $(( {} % 2 ))'; echo $?
echo a b | xargs -t true; printf '3 c\n1 a\n2 b\n' | sort -k2 -r; echo 'x=1;y=2' | tr ';' '\n' | while IFS== read k v; do echo $v $k; done
grep -n -A1 root /etc/passwd | head -4; awk -F: '$3 < 5 {print $1, $3}' /etc/passwd; sed -n '2,4p;$=' /etc/passwd; cut -d: -f1 /etc/passwd | pr -3 -t -l 10
echo "2^64" | bc 2>/dev/null || echo no bc; cal 2>/dev/null | wc -l | grep -c .; od -A x -t x1z -N 64 /bin/ls; strings -n 8 /bin/true 2>/dev/null | head -3
