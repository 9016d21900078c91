//go:build !race

package p2ptest

// hours is how many seeds TestNetworkHour runs.
const hours = 20
