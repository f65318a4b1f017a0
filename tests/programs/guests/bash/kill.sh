# Death by signal, seen by a shell.
sleep 30 & kill $!; wait $!; echo $?
sleep 30 & kill -9 $!; wait $!; echo $?
kill -0 $$ && echo here
kill 4194000 2>&1 | sed 's/.*(/(/'
sh -c 'kill -SEGV $$'; echo $?
sh -c 'kill -PIPE $$'; echo $?
kill -l 11 15 19
kill -TERM $$
