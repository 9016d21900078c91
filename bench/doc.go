// Command bench sets kith beside what it is built on, beside kubo's `ipfs p2p`,
// CometBFT's connections and gRPC, in one run, and prints a table of how they
// compare.
//
//	go run . [flags] [row...]
//
// Rows are stream, bound, kubo, connect, rss, many, mconn, echo, rpc, router and
// dispatch; without one, all of them. README.md says what each measures and how
// to read the result.
//
// Absolute figures depend on the machine and on what else it does, so nothing
// is judged by them. The sides take turns, A B A B, a ratio is taken of each
// pair, and the median of the ratios is held against the bar. What slows the
// machine down for longer than a pair then slows both sides of it.
package main
