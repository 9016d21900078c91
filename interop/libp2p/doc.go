// Package libp2p has stock go-libp2p hosts meet a kith node: hosts as libp2p.New
// makes them, the stock Kademlia DHT and the stock GossipSub and FloodSub, with
// nothing of kith on their side. And PointSub's plain wire, as it was at v0.0.2,
// by a client and a server that are written here from its description.
//
//	go test ./...
//
// This is a module of its own, as a program that uses kith would be: it sees
// what kith exports, and nothing else.
package libp2p
