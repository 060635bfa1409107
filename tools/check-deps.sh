#!/bin/sh
# check-deps.sh - is everything there that the build needs? Says what is not, and what to do.
#
# Run by make before the first object is compiled: one list of what is missing
# is easier to act on than pages of compiler errors. With --test it looks for
# what the tests need, too.
set -u

cc=${CC:-cc}
missing=''
add() { missing="$missing
  $1"; }

# CC may be a command with options, such as "ccache gcc".
if ! command -v "${cc%% *}" >/dev/null 2>&1; then
	add "a C compiler ($cc)"
elif ! printf '#include <stdio.h>\n' | $cc -E - >/dev/null 2>&1; then
	add "the C library's headers"
fi
command -v pkg-config >/dev/null 2>&1 || add "pkg-config"
command -v protoc-c >/dev/null 2>&1 || add "protoc-c (protobuf-c compiler)"

if [ -z "$missing" ]; then
	openblas=$(ls -d /usr/include/*/openblas-openmp /usr/include/openblas 2>/dev/null | sed 's/^/-I/' | tr '\n' ' ')
	probe()
	{
		# $1 header, $2 what it is, $3 pkg-config name or empty
		flags=$( [ -n "$3" ] && pkg-config --cflags "$3" 2>/dev/null)
		# jpeglib.h needs stdio.h first.
		# shellcheck disable=SC2086
		printf '#include <stdio.h>\n#include <%s>\n' "$1" | $cc -E $flags $openblas - >/dev/null 2>&1 || add "$2 ($1)"
	}
	probe uv.h "libuv" libuv
	probe lmdb.h "LMDB" lmdb
	probe jpeglib.h "libjpeg-turbo" libjpeg
	probe protobuf-c/protobuf-c.h "protobuf-c" libprotobuf-c
	probe openssl/sha.h "OpenSSL's libcrypto" libcrypto
	probe xxhash.h "xxHash" ""
	probe cblas.h "OpenBLAS" ""
	if [ "${1:-}" = --test ]; then
		printf '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <cmocka.h>\n' |
			$cc -E - >/dev/null 2>&1 || add "cmocka (cmocka.h)"
		for module in pytest numpy scipy PIL; do
			"${PYTHON:-/usr/bin/python3}" -c "import $module" >/dev/null 2>&1 || add "Python module $module"
		done
	fi
fi

[ -z "$missing" ] && exit 0
{
	echo "This is missing to build:$missing"
	echo "Run  make deps  to install it (Debian, Ubuntu; asks for sudo), or  tools/install-deps.sh --list  to see the packages."
} >&2
exit 1
