"""Child processes by subprocess: pipes, shells, death by signal, missing programs, time-outs."""

import subprocess

print(subprocess.run(["sort", "-n"], input="3\n1\n2\n", text=True, capture_output=True, check=True).stdout)
child = subprocess.Popen("cat; exit 4", shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.communicate(b"x" * 200000)[0].count(b"x"), child.returncode)
print(subprocess.call(["/bin/sh", "-c", "kill -9 $$"]))
print(
    subprocess.run(["sh", "-c", "echo $A; pwd"], env={"A": "b", "PATH": "/bin"}, cwd="/etc", capture_output=True).stdout
)
print(subprocess.run(["readlink", "/proc/self/fd/0"], stdin=subprocess.DEVNULL, capture_output=True).stdout)
print(subprocess.run(["sh", "-c", "echo e >&2; echo o"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout)
print(subprocess.run(["sh", "-c", "ps -o pgid= >/dev/null 2>&1; exit 3"], start_new_session=True).returncode)
try:
    subprocess.run(["/nope"], check=False)
except FileNotFoundError as error:
    print(error)
try:
    subprocess.run(["/etc/passwd"], check=False)
except PermissionError as error:
    print(error)
try:
    subprocess.run(["sleep", "9"], timeout=0.2, check=False)
except subprocess.TimeoutExpired:
    print("timeout")
children = [subprocess.Popen(["sh", "-c", f"exit {i}"]) for i in range(8)]
print([child.wait() for child in children])
