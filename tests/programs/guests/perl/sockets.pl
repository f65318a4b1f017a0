# A socket pair and a server on the loopback network.
use Socket;
use IO::Socket::INET;
$| = 1;
socketpair A, B, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die $!;
syswrite A, "ping";
sysread B, $x, 9;
print "$x\n";
shutdown A, 1;
print sysread(B, $x, 9), "\n";
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die $!;
my $port = $server->sockport;
if (!fork) {
    my $client = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die $!;
    print $client "over the loopback\n";
    print scalar <$client>;
    exit 0;
}
my $connection = $server->accept;
print scalar <$connection>;
print $connection "and back\n";
close $connection;
wait;
die "dead\n";
