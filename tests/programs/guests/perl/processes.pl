# Pipes, forks, shells, opens of commands.
$| = 1;
pipe R, W;
if (!fork) { close R; print W "child\n"; exit 2 }
close W;
print <R>;
wait;
print $? >> 8, "\n";
print `echo from a shell`;
print system("exit 7") >> 8, "\n";
open F, "-|", "seq 3"; print <F>; close F;
open F, "|-", "sort -r"; print F "$_\n" for 1 .. 4; close F;
my @kids = map { my $n = $_; fork || exit $n } 1 .. 6;
print join(" ", map { waitpid $_, 0; $? >> 8 } @kids), "\n";
print -e "/etc/passwd" ? "there\n" : "not there\n";
open F, "<", "/nope" or print "$!\n";
exec "sh", "-c", "echo replaced; exit 9";
