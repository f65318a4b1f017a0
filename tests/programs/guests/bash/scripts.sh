# Programs that are scripts: #! with an argument, without, empty, missing, not executable, recursive.
d=$(mktemp -d); cd "$d"
printf '#!/bin/sh -e\necho "$0" "$@"\nfalse\necho no\n' > s; chmod +x s; ./s 1 2; echo $?
printf 'echo no shebang ${0##*/}\n' > n; chmod +x n; ./n; echo > e; chmod +x e; ./e; echo $?
printf '#!./s  two words \n' > r; chmod +x r; ./r last; echo $?
printf '#!/no/interpreter\n' > m; chmod +x m; ./m 2>&1 | sed 's/.*: //'; printf '#!/usr/bin/env -S perl -w\nprint "perl $0\\n"' > p; chmod +x p; ./p
printf '\177ELF garbage' > g; chmod +x g; ./g 2>&1 | sed 's/.*: //'
./missing; chmod -x s; ./s; echo $?; PATH=$d:$PATH n; cat > py <<< $'#!/usr/bin/python3 -S\nimport sys\nprint(sys.argv)'; chmod +x py; ./py a b
cd /; rm -r "$d"
