# Subshells, substitutions, functions, arithmetic, options, words.
x=1; (x=2; echo $x; (x=3; echo $x; exit 5); echo $?); echo $x $BASH_SUBSHELL; echo $(echo $(echo deep))
fact() { (( $1 < 2 )) && echo 1 || echo $(( $1 * $(fact $(( $1 - 1 ))) )); }; fact 8
s=0; for ((i = 0; i < 2000; i++)); do ((s += i * i)); done; echo $s
diff <(seq 5) <(seq 2 6); cat <(echo a) <(echo b)
coproc { while read l; do echo "<$l>"; done; }; echo one >&${COPROC[1]}; read a <&${COPROC[0]}; echo $a
echo $0 $# "$@" ${#PWD}; set -- a "b c" d; echo $#; for x; do echo "[$x]"; done; echo ${x/d/D}
TIMEFORMAT=; time sleep 0.05; times >/dev/null; echo $?
printf '%5d|%-5s|%x|%q\n' 42 ab 255 'a b'; printf -v v %03d 7; echo $v; echo -e 'tab\there'
cd /usr/share; echo *[a-c]* | wc -w; shopt -s nullglob extglob
echo /etc/pass* /nothing*; echo /etc/@(passwd|group); echo {a,b}{1..3}; [[ abc == a?c ]] && echo match
while IFS=: read -r user _ uid rest; do echo "$user=$uid"; done < /etc/passwd | head -4
declare -A m=([k]=v [l]=w); echo ${!m[@]} ${m[k]} | wc -w; mapfile -t lines < /etc/group; echo ${#lines[@]}
nosuchprogram; echo $?; /etc/passwd; echo $?; /; echo $?
(set -u; echo $nope; echo not here); echo $?
exec /bin/echo replaced
