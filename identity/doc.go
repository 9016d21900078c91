// Package identity holds what a node is: one Ed25519 key, and the two names that follow from it.
//
// The NodeID is Tendermint's name, the lowercase hex of the first 20 bytes of SHA-256(public key). It is a hash, so a
// node cannot be dialled over libp2p by it. The peer ID is libp2p's name (12D3KooW...), which carries the public key
// itself, so the NodeID can always be computed from the peer ID, never the other way round.
//
//	key, created, err := identity.LoadOrCreate("/var/lib/kith/node.key")
//	fmt.Println(key.Public().NodeID(), key.Public().PeerID())
//
// # The key file
//
// Two PEM blocks: "PRIVATE KEY" (PKCS#8, RFC 8410) and "PUBLIC KEY" (SubjectPublicKeyInfo). PKCS#8 alone holds only
// the 32-byte seed, every value of which is a valid key: one flipped bit there would silently make another node. The
// public key beside it is the check, and the file must be exactly the text that this package writes (CRLF line ends
// apart), so damage is an error and never another identity. openssl reads the file (`openssl pkey -in FILE`), and a
// key made by openssl becomes a kith key with `openssl pkey -in FILE -pubout >> FILE`.
//
// A key file is created once, with mode 0600, complete and synced before it appears under its name, and nothing here
// ever overwrites or deletes one. A process killed during creation may leave a file named .NAME.new-RANDOM, which is
// ignored and may be removed.
//
// # One key, many signatures
//
// The same key proves the node to libp2p (Noise, TLS, HTTP auth), signs GossipSub messages and peer records, answers
// CometBFT's SecretConnection challenge and signs kith's own statements. No byte string of one family can be one of
// another; families_test.go lists all of them and holds this. The caller's duty is to use SignContext for anything
// new, and Sign only where another protocol fixes the bytes.
package identity
