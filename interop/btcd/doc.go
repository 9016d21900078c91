// Package btcd runs the tests of btcd's connection manager on kith's: connmgr
// has btcd's method names and promises btcd's documented behaviour, so btcd's
// own tests have to pass on it.
//
//	go test ./...
//
// The tests are never in this tree. Each run copies connmgr/*_test.go of btcd,
// at the version that go.mod names, from the module cache into a scratch
// directory beside the package in adapter, which gives the unexported names
// that those tests look at and uses what kith's connmgr exports, nothing else.
// There they run 20 times under the race detector.
//
// Some of btcd's tests race with their own millisecond timers. Therefore the
// same tests run beside that on btcd's own code, and a failure is kith's unless
// btcd failed the same test in the same run. TestCanary breaks the adapter in
// several ways and wants each to be found.
//
// This is a module of its own so that btcd stays out of kith's go.mod.
package btcd
