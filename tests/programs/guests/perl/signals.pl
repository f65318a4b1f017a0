# Handlers, alarms, sleep cut short.
$| = 1;
$SIG{ALRM} = sub { print "alarm\n" };
$SIG{USR1} = sub { print "usr1\n" };
kill USR1 => $$;
alarm 1;
select undef, undef, undef, 5;
print "done\n";
eval { local $SIG{ALRM} = sub { die "timed out\n" }; alarm 1; sleep 9; };
print $@;
local $SIG{CHLD} = sub { while ((my $p = waitpid -1, 1) > 0) { print "child ", $? >> 8, "\n" } };
if (!fork) { exit 5 }
select undef, undef, undef, 2;
kill KILL => $$;
