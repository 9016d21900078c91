// Package cometbft checks kith against real CometBFT nodes, v0.38.17 and v1.0.1,
// each a process of its own with its kvstore application: the mconn transport,
// a Router over it, each of which dials and is dialled, peer exchange, package
// comet and the command `kith comet`.
//
//	go test ./...
//
// It needs a Unix machine and Go, and nothing else. The first run builds both
// nodes from the versions that v038/go.mod and v1/go.mod name, with the go.sum
// beside them, and keeps the programs in the user's cache directory under
// kith-interop; that takes a few minutes on two cores. Later runs take about two
// minutes, nearly all of it waiting: CometBFT's ping comes after a minute, and
// its patience ends 45 s later, neither of which its configuration can change.
//
//	KITH_INTEROP_MINUTES=5      pings for so long, instead of once and its 45 s
//	KITH_INTEROP_TAMPER=all     every bit of the handshake and of ten frames, both ways,
//	                            402,016 in all, instead of a sample: ten minutes,
//	                            before all else
//
// Both together need -timeout 60m; make interop-long is that.
//
// Every node keeps its state in a directory of its own test, listens on
// 127.0.0.1 below port 32768, and is stopped and waited for when the test ends; a
// failed test prints the node's log.
//
// The folders v038 and v1 hold no code: each is a module that pins one version
// of the node with exactly the dependencies it was released with.
package cometbft
