# Job control: background, foreground, stop, continue, kill by job number, wait in many ways.
for i in 1 2 3; do (sleep 0.0$i; exit $i) & p[$i]=$!; done
for i in 3 1 2; do wait ${p[$i]}; echo $i $?; done
(sleep 0.6; exit 4) & (sleep 0.2; exit 7) &
wait -n; echo $?; wait -n; echo $?; wait -n; echo $?
set -m; exec 2> /dev/null  # bash marks jobs + and - depending on when it hears of them
sleep 0.2 & jobs; fg; echo $?
sleep 9 & kill %1; wait %1; echo $?
sh -c 'kill -STOP $$; exit 9' & wait $!; echo $?
jobs | grep -c Stopped; kill -CONT $!; sleep 0.2; wait $!; echo $?
(sleep 9 | sleep 9) & kill -- -$!; wait $!; echo $?
disown -a; jobs
