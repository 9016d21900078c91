//go:build race

package p2ptest

// hours is how many seeds TestNetworkHour runs: few, where each takes ten times as
// long.
const hours = 2
