// Package cometbft checks kith's mconn transport against real CometBFT nodes,
// v0.38.17 and v1.0.1, each a process of its own with its kvstore application.
//
//	go test ./...
//
// It needs a Unix machine. The first run builds both nodes from the versions
// that v038/go.mod and v1/go.mod name, with the go.sum beside them, and keeps the
// programs in the user's cache directory under kith-interop; that takes a few
// minutes on two cores. Later runs take a little over two minutes, nearly all
// of it waiting for pings, which CometBFT sends once a minute.
// KITH_INTEROP_PINGS=10m waits longer.
//
// Every node keeps its state in a directory of its own test, listens on
// 127.0.0.1 below port 32768, and is stopped and waited for when the test ends; a
// failed test prints the node's log.
//
// The folders v038 and v1 hold no code: each is a module that pins one version
// of the node with exactly the dependencies it was released with.
package cometbft
