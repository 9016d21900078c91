# The ground that kubo's p2p script stands on: it reads this file, by this
# name, before its first step. The words are those the script calls; what they
# do is written here from scratch. node.sh says how to reach the nodes, which
# run already.
#
# In the environment: NODES, how many there are; NODE_PID, NODE_ID, NODE_ADDR
# and NODE_HOME, each followed by the node's number; REPLAY_REPORT, the file
# that gets one line a step (verdict, name, file with what the step printed);
# REPLAY_LEFT_OUT, names of steps not to run, one a line; GRACE, how many times
# 20 ms to give the ends of a stream that was cut.

. lib/node.sh

steps=0

# report VERDICT NAME LOG
report() {
	printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$REPLAY_REPORT"
}

# The step runs in this very shell: later steps read the variables it sets.
test_expect_success() {
	steps=$((steps + 1))
	if [ -n "$REPLAY_LEFT_OUT" ] && printf '%s\n' "$REPLAY_LEFT_OUT" | grep -Fxq -e "$1"; then
		report left-out "$1" -
		return
	fi
	step_log="$PWD/step-$steps.log"
	eval "$2" </dev/null >"$step_log" 2>&1
	if [ $? -eq 0 ]; then
		report ok "$1" "$step_log"
	else
		report failed "$1" "$step_log"
	fi
}

# A command that must fail by itself: not found, not executable or ended by a
# signal is no proper failure.
test_must_fail() {
	"$@"
	case $? in
	0)
		echo >&2 "succeeded, and should have failed: $*"
		return 1
		;;
	126 | 127 | 12[89] | 1[3-9]? | 2??)
		echo >&2 "did not fail by itself: $*"
		return 1
		;;
	esac
	return 0
}

test_cmp() {
	diff -u "$1" "$2"
}

test_must_be_empty() {
	[ -f "$1" ] || {
		echo >&2 "no file $1"
		return 1
	}
	[ -s "$1" ] || return 0
	echo >&2 "$1 should be empty, it says:"
	cat >&2 "$1"
	return 1
}

# test_wait_for_file TIMES DELAY FILE
test_wait_for_file() {
	tries=$1
	until [ -f "$3" ]; do
		[ "$tries" -gt 0 ] || {
			echo >&2 "waited for $3 in vain"
			return 1
		}
		tries=$((tries - 1))
		go-sleep "$2"
	done
}

# node_of N VARIABLE
node_of() {
	eval "printf '%s\n' \"\$NODE_$2$1\""
}

# All commands that the script gives a node pass here. After a stream is cut
# both programs at its ends have to see that and leave; the script looks for
# them at once, so they get a moment first. They get no more than that: if they
# stay, the script still says so.
ipfsi() {
	node=$1
	shift
	node_command "$node" "$@" || return
	case "$1 $2 $3" in
	"p2p stream close")
		grace=$GRACE
		while [ "$grace" -gt 0 ] && { [ -f listener.pid ] || [ -f client.pid ]; }; do
			grace=$((grace - 1))
			go-sleep 20ms
		done
		;;
	esac
	return 0
}

# The nodes are made and started by the test program; what the script asks its
# cluster tool is answered from the environment.
iptb() {
	case "$*" in
	"testbed create "*) ;;
	"attr get "*" id") node_of "$3" ID ;;
	stop)
		for node in $(seq 0 $((NODES - 1))); do
			kill "$(node_of "$node" PID)"
		done
		for node in $(seq 0 $((NODES - 1))); do
			while kill -0 "$(node_of "$node" PID)" 2>/dev/null; do
				go-sleep 20ms
			done
		done
		;;
	*)
		echo >&2 "iptb $*: not known here"
		return 1
		;;
	esac
}

# startup_cluster N
startup_cluster() {
	test_expect_success "as many nodes as asked for" "[ $1 -eq $NODES ]"
	for node in $(seq 1 $(($1 - 1))); do
		test_expect_success "connect node $node to node 0" "node_connect $node"
	done
	for node in $(seq 0 $(($1 - 1))); do
		test_expect_success "node $node is connected" "node_is_connected $node"
	done
}

test_done() {
	report done "$steps" -
}
