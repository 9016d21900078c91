package p2p

// ProtocolVersion is what a node speaks: the wire (P2P), the blocks of its
// chain (Block) and its application (App). Only Block has to be equal between
// peers.
type ProtocolVersion struct{ P2P, Block, App uint64 }

// NodeInfo is what a node says of itself in the handshake.
type NodeInfo struct {
	ProtocolVersion ProtocolVersion
	NodeID          NodeID
	ListenAddr      string // host:port, with an optional tcp://
	Network         string // must be equal between peers
	Version         string // of the software; printable ASCII
	Moniker         string // a name for people; printable ASCII, not empty
	Channels        []ChannelID
	Other           NodeInfoOther
	Extensions      Extensions // between kith nodes only; zero towards others
}

// NodeInfoOther is the rest of CometBFT's node info.
type NodeInfoOther struct {
	TxIndex    string // "", "on" or "off"
	RPCAddress string
}

// Extensions is what two kith nodes may speak beyond the common wire. A
// transport carries it bound to the handshake, so that nobody between can take
// it away, and leaves it zero when the other side is not kith.
type Extensions struct {
	Kith            bool        // the other side is a kith node
	RequestChannels []ChannelID // channels that carry requests and replies
	ListenAddrs     []string    // NodeAddress URLs where the node listens, beside ListenAddr
	Observed        string      // the IP that the speaker sees the other side at, "" if none
	Feeler          bool        // the speaker only tests the address, and leaves once it knows who answers
}
