# Pipelines, their status, SIGPIPE, and long ones.
seq 1000 | grep 7 | sed 's/7/seven/' | awk '{n += length($0)} END {print NR, n}'
false | true | sh -c 'exit 3'; echo ${PIPESTATUS[@]}
(set -o pipefail; false | true; echo $?)
yes | head -1; echo ${PIPESTATUS[@]}
(trap '' PIPE; yes 2>/dev/null | head -1; echo ${PIPESTATUS[@]})
seq 300 | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | cat | tail -1
! false; echo $?
{ echo a; echo b >&2; } |& sort
echo x | { read y; echo $y; }
head -c 1000000 /dev/zero | tr '\0' y | wc -c
for i in {1..25}; do /bin/true & done; wait
for i in {1..10}; do echo $i | cat; done | wc -l
