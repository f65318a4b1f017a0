# tar and gzip round trips.
d=$(mktemp -d); cd "$d"
mkdir t; seq 2000 > t/a; head -c 5000 /bin/ls > t/b; ln -s a t/l; chmod 600 t/b
tar cf - t | gzip -9n > o.tgz; tar tzf o.tgz | sort; rm -r t; tar xzf o.tgz; sha256sum t/*; stat -c '%a %F' t/b t/l; zcat o.tgz | wc -c
gzip -k t/a; gunzip -c t/a.gz | cmp - t/a; gzip -l t/a.gz | awk '{print $2}'; tar czf x.tgz -C /etc passwd group; tar xOzf x.tgz passwd | cmp - /etc/passwd
echo garbage | gzip -d; echo $?; tar xf /etc/passwd; echo $?
cd /; rm -r "$d"
