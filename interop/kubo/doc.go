// Package kubo checks kith against a real kubo node, the peer that first
// offered `ipfs p2p`. Everything here drives the two programs as a person
// would, as processes with a command line; no package of either is imported,
// which is why this folder is its own module: kubo's dependencies stay out of
// kith's go.mod, and the two sets of versions never have to agree.
//
// Run it with
//
//	go test ./...
//
// on a Unix machine with bash. The first run builds kubo's ipfs command at the version that go.mod names,
// with the go.sum beside it, and keeps the program in the user's cache
// directory under kith-interop; that takes about two minutes on two cores and
// 120 MB. Later runs start within a second. The kith command is built from the
// parent module on each run, unless KITH_BINARY names one to test.
//
// Every node keeps its state in a directory of its own test, listens on
// 127.0.0.1 over TCP only, and is stopped and waited for when the test ends; a
// failed test prints the nodes' logs. Kubo nodes have no bootstrap list, no
// routing, no relay, no NAT service and no telemetry: nothing leaves the
// machine. Kubo 0.38.1 built with Go 1.26 must not listen on QUIC (a handshake
// ends its process), hence TCP only.
//
// What is checked, by file:
//
//   - baseline_test.go: kubo with kubo, which proves the harness and records
//     what kubo does to a half-closed connection;
//   - replay_test.go: kubo's own script for `ipfs p2p`, read from the module
//     cache and run as it is, with `kith p2p` answering in place of `ipfs p2p`;
//     the same script on kubo proves that the stand-ins around it are faithful;
//   - words_test.go: the same commands given to both, and what each prints;
//   - cross_test.go: kubo's mounts used from kith, and kith's from kubo;
//   - dnsaddr_test.go: peers named by /dnsaddr, answered by a local resolver.
package kubo
