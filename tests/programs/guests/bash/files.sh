# Files made, moved, linked, listed, removed; permissions; sparse files.
d=$(mktemp -d); cd "$d"
echo one > a; cp a b; ln a c; ln -s a s; mkdir -p x/y/z; mv b x/y; touch -d @1000000 t; chmod 640 a; truncate -s 5000 big; touch -d @2000000 big
ls -lR --time-style=+%s t big; stat -c '%n %s %a %h %F' a c s big t; stat -c '%n %a %h %F' x; cat s x/y/b; rm -r x; ls; rmdir nothere
(umask 027; mkdir d; echo > f; stat -c %a d f; chmod u+s,g+s f; stat -c %a f; chmod 0 f; stat -c %A f)
seq 5 | tee x > /dev/null; seq 3 | tee -a x | wc -l; cat x; echo more >> x; wc -l < x; cp x y; cmp x y; echo z >> y; cmp x y; diff x y
mkfifo p; (seq 1000 > p) & sort -n < p | tail -1; wait; ls -l p | cut -c 1
dd if=/dev/zero of=f2 bs=1 count=3 seek=5 status=none; echo abc | dd of=f2 conv=notrunc status=none; od -c f2; du -b f2
touch 'with space' $'new\nline' -- -dash; ls -b; find . -type f -newer t | sort | head -3; rm -- -dash; ls | wc -l
mv a a2; mv missing b; mv a2 d/; ls d; cp -a d e; ls e; ln -s nowhere dangling; cat dangling; readlink dangling; [ -L dangling ]; echo $?
cp /etc/passwd p2; sed -i 's/root/ROOT/' p2; head -1 p2; install -m 700 p2 p3; stat -c %a p3; split -l 5 p2 part; ls part* | head -2
rm -r "$d"/*; ls -A; cd /; rmdir "$d"; [ -d "$d" ]; echo $?
