# Here-documents, here-strings, big ones, in functions and loops.
cat <<END
value: $((6 * 7)) $(echo nested)
END
cat <<-'END'
	$not expanded
	END
tr a-z A-Z <<< word
x=$(head -c 200000 /dev/zero | tr '\0' x)
cat <<END | wc -c
$x
END
f() { cat <<END; }
in a function: $1
END
f one; f two
while read -r line; do echo "[$line]"; done <<END
a b
 c\d
END
cat <(echo one) - <<< two
