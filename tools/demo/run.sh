#!/bin/bash
# run.sh - the demo: a data set, a daemon, four training runs, one table.
#
# Called by `make demo` after the build. Everything it makes (pictures, cache,
# socket, runs) lies in one temporary folder of its own, so it does not touch a
# daemon that is running and leaves nothing behind, also when interrupted.
#
#   DEMO_KEEP=DIR      keep the folder there (pictures, cache, runs) instead of removing it; DIR is new, or an empty folder
#   DEMO_PICTURES=N    training pictures (default 1000; a quarter as many for validation)
#   DEMO_EPOCHS=N      epochs of each run (default 50)
#   DEMO_ARMS="A B"    the values of --reg (default: none dropout l2 adv)
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$root/build/release/bin
pictures=${DEMO_PICTURES:-1000}
epochs=${DEMO_EPOCHS:-50}
arms=${DEMO_ARMS:-none dropout l2 adv}
# The same for every arm. A model this small gains little from a second thread, and one thread leaves its time undisturbed
# by whatever else runs on the machine.
options="--task match --preset tiny --batch-size 32 --lr 3e-4 --seed 1 --threads 1 --epochs $epochs"

# A demo shows what it is told here, not what the user's own daemon is set to.
unset PREPROCESSD_SOCKET PREPROCESSD_CACHE
export LC_ALL=C

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

work=''
daemon=''
child=''

# Nothing of the user's is ever replaced: what cannot go where it was asked for stays where it is.
keep()
{
	rmdir "$DEMO_KEEP" 2>/dev/null
	if mv -nT "$work" "$DEMO_KEEP" 2>/dev/null && [ ! -e "$work" ]; then
		echo "kept in $DEMO_KEEP"
	else
		echo "demo: cannot move it to $DEMO_KEEP; kept in $work" >&2
	fi
}

cleanup()
{
	trap - EXIT INT TERM HUP
	for pid in $child $daemon; do
		kill -TERM "$pid" 2>/dev/null
		# The daemon drains and ends by itself; nothing may outlive the demo.
		for _ in $(seq 100); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	if [ -n "$work" ]; then
		if [ -n "${DEMO_KEEP:-}" ]; then
			keep
		else
			rm -rf "$work"
		fi
	fi
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT
trap 'cleanup; exit 143' TERM HUP

# Runs in the background and waits, so that a signal reaches the traps at once.
run()
{
	"$@" &
	child=$!
	wait "$child"
	local code=$?
	child=''
	return $code
}

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

for program in preprocessd prepctl trainer; do
	[ -x "$bin/$program" ] || fail "$bin/$program is missing: run make demo, which builds it"
done
# Said before the work, not after it.
if [ -n "${DEMO_KEEP:-}" ] && [ -e "$DEMO_KEEP" ] && { [ ! -d "$DEMO_KEEP" ] || [ -n "$(ls -A "$DEMO_KEEP")" ]; }; then
	fail "DEMO_KEEP=$DEMO_KEEP is there and not empty; name a new folder"
fi
# A socket's path has 107 bytes at most.
folder=${TMPDIR:-/tmp}
[ ${#folder} -gt 80 ] && folder=/tmp
work=$(mktemp -d "$folder/demo-XXXXXX") || fail "no temporary folder could be made in $folder"
socket=$work/daemon.sock
cache=$work/cache
started=$(now)

say "making a data set: $pictures pictures to train on, $((pictures / 4)) to validate on"
run "$root/build/release/demo/make_demo_data" --out "$work/data" --train "$pictures" --val $((pictures / 4)) ||
	fail "the data set could not be made"
run "$root/build/release/tools/train_vocab" --size 400 --out "$work/data/demo-vocab.txt" "$work/data/captions.txt" ||
	fail "the vocabulary could not be made"
head -n 3 "$work/data/train.csv" | sed 's/^/   /'

say "starting preprocessd"
mkdir -p "$cache"
"$bin/preprocessd" --socket "$socket" --cache "$cache" >"$work/preprocessd.log" 2>&1 &
daemon=$!
ready=no
for _ in $(seq 100); do
	"$bin/prepctl" status --socket "$socket" >/dev/null 2>&1 && ready=yes && break
	kill -0 $daemon 2>/dev/null || break
	sleep 0.1
done
if [ $ready = no ]; then
	cat "$work/preprocessd.log" >&2
	fail "preprocessd did not start (its messages are above)"
fi

say "adding the data: decode, resize and tokenize once, for all runs"
run "$bin/prepctl" add demo --socket "$socket" --format csv --images "$work/data/images" \
	--captions "train=$work/data/train.csv" --captions "val=$work/data/val.csv" --columns image,caption,label \
	--vocab "$work/data/demo-vocab.txt" --size 64 || fail "prepctl add failed"

mkdir "$work/runs"
for arm in $arms; do
	say "training with --reg $arm"
	# shellcheck disable=SC2086
	run "$bin/trainer" --data demo --reg "$arm" $options --socket "$socket" --out "$work/runs/$arm" || fail "trainer --reg $arm failed"
done

say "stopping preprocessd"
kill -TERM $daemon
wait $daemon || fail "preprocessd did not end cleanly (exit code $?)"
daemon=''

say "what the runs gave, after $epochs epochs of $pictures pictures each"
echo
(cd "$work/runs" && "$root/tools/report-table" $arms) || fail "no table"
awk -v s="$(since "$started")" 'BEGIN {
	printf "Chance is 0.500. Differences of less than two standard errors mean nothing in a single run.\n"
	printf "The whole demo took %d:%02d.\n", int(s / 60), int(s) % 60 }'
