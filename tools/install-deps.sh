#!/bin/sh
# install-deps.sh - installs the packages that the project needs, and nothing else.
#
#   tools/install-deps.sh           what building and the demo need
#   tools/install-deps.sh --test    the above, and what the tests need
#   tools/install-deps.sh --list    only prints the packages
#
# Knows Debian and Ubuntu. On another system it names what to install and
# exits with 1. Where everything is there already it says so, asks for no
# password and needs no network.
set -eu

# package : why. One a line.
BUILD='
gcc:the C compiler
libc6-dev:the C library to compile against
make:runs the Makefile
pkg-config:finds the libraries
libuv1-dev:event loop of the daemon
liblmdb-dev:the cache on disk
libjpeg-dev:JPEG decoding (libjpeg-turbo)
libprotobuf-c-dev:messages between daemon and trainer
protobuf-c-compiler:turns schemas/*.proto into C
libssl-dev:SHA-256
libxxhash-dev:checksums of cache records
libopenblas-openmp-dev:matrix products
'
# Installed where the system has them; the build does without.
BUILD_OPTIONAL='
libdnnl-dev:fast convolutions (oneDNN)
'
TEST='
libcmocka-dev:C unit tests
python3:runs the tests
python3-pytest:runs the parity and integration tests
python3-numpy:reads tensors in tests
python3-scipy:the oracle for statistics
python3-pil:Pillow, the oracle for pixels
procps:pgrep, by which tests find processes that were left behind
unzip:unpacks COCO as README.md has it
clang:fuzz targets
'
# Ubuntu has one of the first two or neither; what holds us against them is skipped there, and says so.
TEST_OPTIONAL='
python3-torch:PyTorch, the oracle for gradients
python3-torchvision:the oracle for resizing
libclang-rt-dev:run-time library of the fuzz targets
'

usage()
{
	echo "usage: tools/install-deps.sh [--test] [--list]"
	echo "  --test   also what make test, make lint and make fuzz need"
	echo "  --list   print the packages and stop"
}

with_tests=0
only_list=0
for argument in "$@"; do
	case "$argument" in
	--test) with_tests=1 ;;
	--list) only_list=1 ;;
	-h | --help) usage; exit 0 ;;
	*)
		echo "install-deps.sh: unknown option $argument" >&2
		usage >&2
		exit 2
		;;
	esac
done

names_of() { printf '%s\n' "$1" | sed -n 's/^\([^:]*\):.*/\1/p'; }
why_of() { printf '%s\n' "$BUILD$BUILD_OPTIONAL$TEST$TEST_OPTIONAL" | sed -n "s/^$1:\(.*\)/\1/p"; }

if [ $with_tests = 1 ]; then
	required=$(names_of "$BUILD$TEST")
	optional=$(names_of "$BUILD_OPTIONAL$TEST_OPTIONAL")
else
	required=$(names_of "$BUILD")
	optional=$(names_of "$BUILD_OPTIONAL")
fi

if [ $only_list = 1 ]; then
	for package in $required $optional; do
		printf '%-24s %s\n' "$package" "$(why_of "$package")"
	done
	exit 0
fi

unknown_system()
{
	# Where everything is found anyway there is nothing to refuse.
	test_flag=''
	[ $with_tests = 1 ] && test_flag=--test
	if "$(dirname "$0")/check-deps.sh" $test_flag >/dev/null 2>&1; then
		echo "packages: this system is not Debian or Ubuntu, but all that is needed is there"
		exit 0
	fi
	name=$( (. /etc/os-release && echo "$PRETTY_NAME") 2>/dev/null || uname -s)
	{
		echo "install-deps.sh: I know the packages of Debian and Ubuntu only, and this is $name."
		echo "Install these with your system's package manager, with their headers, then run make again:"
		echo "  to build:  a C11 compiler (gcc or clang), GNU make, pkg-config, libuv >= 1.44, LMDB >= 0.9.24,"
		echo "             libjpeg-turbo >= 2.1, protobuf-c (library and protoc-c), OpenSSL (libcrypto),"
		echo "             xxHash >= 0.8, OpenBLAS (OpenMP build), and, for speed, oneDNN 2 or 3"
		echo "  to test:   cmocka, clang with its sanitizer run-time, Python 3 with pytest, NumPy, SciPy, Pillow, and, for all tests,"
		echo "             PyTorch and torchvision"
	} >&2
	exit 1
}

command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 || unknown_system
case "$( (. /etc/os-release && echo " $ID ${ID_LIKE:-} ") 2>/dev/null)" in
*" debian "* | *" ubuntu "*) ;;
*) unknown_system ;;
esac

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | head -c 9)" = installed ]; }

missing=''
for package in $required; do
	is_installed "$package" || missing="$missing $package"
done
missing_optional=''
for package in $optional; do
	is_installed "$package" || missing_optional="$missing_optional $package"
done

if [ -z "$missing$missing_optional" ]; then
	echo "packages: all there"
	exit 0
fi

as_root=''
if [ "$(id -u)" != 0 ]; then
	if command -v sudo >/dev/null 2>&1; then
		as_root='sudo'
	elif [ -z "$missing" ]; then
		# Only extras are missing: go on without.
		echo "packages: all there (without$missing_optional: installing them takes root)"
		exit 0
	else
		{
			echo "install-deps.sh: these packages are missing, and installing them takes root or sudo:"
			echo "   $missing"
			echo "Ask an administrator to run:  apt-get install$missing"
		} >&2
		exit 1
	fi
fi

echo "installing with apt-get${as_root:+ (through sudo)}:"
for package in $missing $missing_optional; do
	printf '  %-24s %s\n' "$package" "$(why_of "$package")"
done

run_apt()
{
	# shellcheck disable=SC2086
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null
}

known() { apt-cache show "$1" >/dev/null 2>&1; }

# Fresh machines have no package lists, and old lists name versions that the
# servers no longer have: fetch them when a package is unknown or fails to install.
need_update=0
for package in $missing; do
	known "$package" || need_update=1
done
updated=0
update()
{
	[ $updated = 1 ] && return 0
	updated=1
	echo "fetching package lists ..."
	# One repository that is down (a third party's, say) must not stop us.
	run_apt update || echo "install-deps.sh: some package lists could not be fetched; going on with what there is" >&2
}
[ $need_update = 1 ] && update

install_packages() { run_apt install --no-install-recommends "$@"; }

if [ -n "$missing" ]; then
	# shellcheck disable=SC2086
	if ! install_packages $missing; then
		update
		# shellcheck disable=SC2086
		if ! install_packages $missing; then
			{
				echo "install-deps.sh: apt-get could not install:$missing"
				echo "Its messages are above. Check the network and /etc/apt/sources.list, then run this again."
			} >&2
			exit 1
		fi
	fi
fi
for package in $missing_optional; do
	if known "$package"; then
		install_packages "$package" || echo "install-deps.sh: going on without $package ($(why_of "$package"))" >&2
	else
		echo "this system has no package $package ($(why_of "$package")): going on without"
	fi
done
echo "packages: all there"
