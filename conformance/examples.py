"""What the commands look like in use: shown by their --help, told at length in docs/porting.md."""

from typing import Final

TOP: Final = """\
a first evening with a driver of your own:
  python3 -m conformance smoke --driver ./my-driver
  python3 -m conformance run --driver ./my-driver --tier 1
  python3 -m conformance explain SYS-ARGS-001
  python3 -m conformance run --driver ./my-driver --report today.jsonl
  python3 -m conformance report today.jsonl --html --output today.html

The porter's guide is docs/porting.md, the protocol docs/protocol.md.
"""

EXAMPLES: Final = {
    "run": """\
examples:
  python3 -m conformance run --driver ./my-driver --tier 2
  python3 -m conformance run --driver 'docker run -i --rm my-image' --only 'SYS-*' --only 'REG-*'
  python3 -m conformance run --driver ./my-driver --skip-file skips.txt --report out.jsonl
  python3 -m conformance run --driver ./my-driver --only INT-RACE-001 --seed 7 --jobs 1 -v

skips.txt has a glob and a reason on each line:
  HOST-*    hostile guests: not before summer

exit status: 0 when every case is pass, unsupported, skipped or a known erratum; 1 otherwise
""",
    "smoke": """\
Runs tier 0, the protocol itself, on one driver, and tells of every case.

example:
  python3 -m conformance smoke --driver 'python3 conformance/drivers/tutorial.py'
""",
    "list": """\
examples:
  python3 -m conformance list --tier 1
  python3 -m conformance list --only 'INT-*'

A line is: id, tier, level, what is right, and in brackets the capabilities without which it is unsupported.
""",
    "explain": """\
example:
  python3 -m conformance explain FP-LEAK-001
""",
    "export": """\
example:
  python3 -m conformance export --output cases.json

The checks of the driver itself (DRV-*, KILL-DRIVER-001) are programs, and not in it. conformance/schemas has the schema.
""",
    "report": """\
examples:
  python3 -m conformance report out.jsonl --html --output out.html
  python3 -m conformance report out.jsonl --junit --output junit.xml
  python3 -m conformance report out.jsonl --markdown >> "$GITHUB_STEP_SUMMARY"
""",
    "diff": """\
example:
  python3 -m conformance diff yesterday.jsonl today.jsonl

exit status: 1 when a case got worse (what passed and is left out now did, too), 0 otherwise
""",
}
