# Traps in shells and subshells.
trap 'echo got USR1' USR1
trap 'echo bye $?' EXIT
kill -USR1 $$
trap '' TERM; kill $$; echo alive
(kill $BASHPID; echo children ignore it as well)
trap - TERM
(trap 'echo in child; exit 6' TERM; kill $BASHPID; sleep 1); echo $?
sleep 3 >&- 2>&- <&- & (sleep 0.1; kill -USR1 $$) & wait %1; echo $?; kill %1 2> /dev/null
(sleep 0.1; kill -USR1 $$) & read -t 1 x < <(sleep 1.5); echo $(( $? > 128 ))
(set -eE; trap 'echo err $LINENO' ERR; f() { false; }; f; echo not reached); echo $?
exec 2> /dev/null  # when bash tells of jobs depends on load
trap 'echo child ended' CHLD; set -m; /bin/true & wait; trap - CHLD; set +m
trap -p | sed 's/ SIG/ /'
exit 3
