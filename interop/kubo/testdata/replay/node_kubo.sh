# Nodes that are kubo's own; IPFS is the program.

# Kubo asks the machine's resolver for a bare /dnsaddr, whatever its config
# says, and a test has no say there. It gets what the name stands for instead.
node_command() {
	home=$(node_of "$1" HOME)
	shift
	if [ "$1 $2 $5" = "p2p forward /dnsaddr/example-dnsaddr.multiformats.io" ]; then
		set -- "$1" "$2" "$3" "$4" "$(node_of 2 ADDR)"
	fi
	IPFS_PATH=$home "$IPFS" "$@"
}

node_connect() {
	node_command "$1" swarm connect "$(node_of 0 ADDR)"
}

node_is_connected() {
	node_command "$1" swarm peers | grep /p2p/
}
