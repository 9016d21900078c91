package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// How much work a profile covers.
const (
	profiledTransfers   = 8
	profiledConnections = 3000
	profiledTurns       = 20 // of each side of a contest
)

// profile records, when that was asked for, where the CPU time of some work
// goes and what the process has allocated so far: NAME.cpu and NAME.allocs, to
// be read with `go tool pprof`. It runs after the measurement, so that it
// cannot slow it down.
func (b *bench) profile(name string, work func() error) (err error) {
	if b.prof == "" {
		return nil
	}
	if err := os.MkdirAll(b.prof, 0o755); err != nil {
		return err
	}
	cpu, err := os.Create(filepath.Join(b.prof, name+".cpu"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cpu.Close()) }()
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	err = work()
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	allocs, err := os.Create(filepath.Join(b.prof, name+".allocs"))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close())
}

// profileTransfers profiles one direction of a tunnel or stream.
func (b *bench) profileTransfers(ctx context.Context, name string, dial dialFunc, way byte) error {
	return b.profile(name, func() error {
		for range profiledTransfers {
			if _, err := transfer(ctx, dial, way, b.size, readSize); err != nil {
				return err
			}
		}
		return nil
	})
}
