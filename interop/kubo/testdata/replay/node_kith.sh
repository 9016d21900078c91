# Nodes that are kith's; KITH is the program. Kith opens a service to nobody
# unless told to, where kubo opens it to all: that is the one word added.
node_command() {
	home=$(node_of "$1" HOME)
	shift
	if [ "$1 $2" = "p2p listen" ]; then
		set -- "$@" --allow-any
	fi
	"$KITH" --home "$home" "$@"
}

node_connect() {
	node_command "$1" dial "$(node_of 0 ADDR)"
}

node_is_connected() {
	node_command "$1" peers | grep 12D3KooW
}
