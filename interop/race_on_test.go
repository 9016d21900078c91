//go:build race

package interop

// raceEnabled makes the kith command be built with the race detector too.
const raceEnabled = true
