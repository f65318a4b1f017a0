"""Programs whose output and exit status must be as they are natively.

Each file in ``guests/`` is a program; short ones stand here. Nothing may depend on time, process ids, load or what a run
leaves on disk: files go to a fresh directory in /tmp, which is a tmpfs of the guest's own.
"""

from pathlib import Path
from typing import NamedTuple

GUESTS = Path(__file__).parent / "guests"
NUMBERS = b"".join(b"%d\n" % (i * 7919 % 10007) for i in range(3000))


class Case(NamedTuple):
    """One program to run: argv and standard input."""

    name: str
    argv: tuple[str, ...]
    stdin: bytes = b""


def words(line: str, stdin: bytes = b"") -> Case:
    """Return a command line without quotes as a case."""
    return Case(line, tuple(line.split()), stdin)


def sh(script: str, stdin: bytes = b"") -> Case:
    """Return a bash script as a case."""
    return Case(f"bash: {script[:30]}", ("/bin/bash", "-c", script), stdin)


def files(folder: str, *command: str) -> tuple[Case, ...]:
    """Return the programs of a folder in ``guests/``, given to ``command`` as text: guests need not see this checkout."""
    return tuple(
        Case(f"{folder}/{path.stem}", (*command, path.read_text(encoding="utf-8")), b"some\ninput\n")
        for path in sorted((GUESTS / folder).iterdir())
        if path.is_file()
    )


COREUTILS = (
    words("/bin/true"),
    words("/bin/false"),
    words("/bin/ls -l /etc"),
    words("/bin/ls -la /usr"),
    words("/bin/ls /no/such/place"),
    words("/bin/cat", NUMBERS),
    words("/bin/cat /etc/passwd /etc/group"),
    words("/usr/bin/wc", NUMBERS),
    words("/usr/bin/sort -n", NUMBERS),
    words("/usr/bin/sort -u -r --parallel=2", NUMBERS),
    words("/usr/bin/env -i A=1 B=two /usr/bin/env"),
    words("/usr/bin/env"),
    words("/usr/bin/id"),
    words("/bin/pwd"),
    Case("stat", ("/usr/bin/stat", "-c", "%n %s %f %u %g %h %a %F", "/etc/passwd", "/bin", "/etc", "/dev/null")),
    words("/usr/bin/sha256sum /bin/bash"),
    words("/usr/bin/base64", NUMBERS),
    words("/bin/readlink -f /proc/self/../../etc/../bin/sh"),
    words("/usr/bin/factor 18446744073709551557 1234567890"),
    words("/usr/bin/timeout 0.3 /bin/sleep 30"),
    words("/usr/bin/timeout -s KILL 0.2 /bin/sleep 30"),
    words("/usr/bin/nohup /bin/echo x"),
)

SEARCHING = (
    words("grep -rn root /etc/passwd /etc/group /etc/default"),
    words("grep -c 9", NUMBERS),
    words("grep nothing /etc/hostname"),
    Case("find", ("find", "/usr/share/doc/bash", "/etc/default", "-type", "f", "-printf", "%p %s %m\n")),
    words("find /etc/default -type f -exec wc -c {} +"),
    Case("awk", ("awk", '{ s += $1; if ($1 > m) m = $1 } END { printf "%d %d %.2f\n", s, m, s / NR }'), NUMBERS),
    Case("sed", ("sed", "-n", "-e", "s/^1\\(.*\\)$/[\\1]/p"), NUMBERS),
    Case("perl -ne", ("perl", "-ne", "$h{length $_}++; END { print qq($_ $h{$_}\n) for sort keys %h }"), NUMBERS),
    Case("perl -e", ("perl", "-e", 'printf "%.3f\n", atan2(1,1)*4; exit 3')),
    Case("python3 -c", ("/usr/bin/python3", "-c", "import sys; print(sum(range(1000000))); sys.exit(5)")),
    Case("python3 traceback", ("/usr/bin/python3", "-S", "-c", "def f(): raise ValueError('x')\nf()")),
)

BASH = (
    sh("exit 42"),
    sh("kill -ABRT $$"),
    sh("read a; read b; cat; echo $a $b", b"first\nsecond\nthe rest\nof it\n"),
    Case(
        "dash", ("/bin/sh", "-c", "i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; echo $i; set -u; echo $x; echo no")
    ),
)

SCRIPTS = files("bash", "/bin/bash", "-c")
PERL = files("perl", "perl", "-e")
PYTHON = files("python", "/usr/bin/python3", "-u", "-S", "-E", "-c")

BUSYBOX = (
    ("sha256sum", "/etc/passwd"),
    ("find", "/etc/default"),
    ("awk", "BEGIN { for (i = 0; i < 5; i++) print i * i }"),
    ("ls", "-l", "/etc/default"),
    ("wc", "/etc/passwd"),
    ("expr", "3", "+", "4"),
    ("false",),
    ("sh", "-c", "seq 100 | sort -rn | head -3; t=$(mktemp); echo a > $t; cat $t; rm $t; (exit 4); echo $?"),
    ("sh", "-c", "tar cf - -C /etc passwd group | gzip -c | gunzip -c | tar tf -"),
    ("sh", "-c", "for i in 1 2 3; do (exit $i) & done; wait; echo done; sleep 9 & kill $!; wait $!; echo $?"),
    ("sh", "-c", "d=$(mktemp -d); cd $d; mkdir -p q/r; echo x > q/r/s; cp -r q w; ls -R w; cd /; rm -r $d"),
)

ALL = COREUTILS + SEARCHING + BASH + SCRIPTS + PERL + PYTHON
SAMPLE = frozenset(
    (
        "/bin/ls -l /etc",
        "/bin/cat /etc/passwd /etc/group",
        "/usr/bin/sort -n",
        "/usr/bin/id",
        "/usr/bin/sha256sum /bin/bash",
        "/usr/bin/timeout 0.3 /bin/sleep 30",
        "awk",
        "dash",
        "perl -ne",
        "python3 -c",
        "bash: kill -ABRT $$",
        "bash/pipelines",
        "bash/redirections",
        "python/event_loop",
        "perl/processes",
        "perl/signals",
        "python/signals",
        "python/subprocesses",
    )
)
"""Names of cases that stand for all where everything is slow: each kind of program, fork and exec, threads, signals."""

QUICK = tuple(
    case
    for case in ALL
    if case.name
    in (
        "/bin/true",
        "/bin/ls -l /etc",
        "bash/pipelines",
        "perl/processes",
        "python/subprocesses",
        "python/threads",
    )
)
"""A sample for platforms that are not the subject."""
