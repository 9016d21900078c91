package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// profiled is how many transfers a profile covers.
const profiled = 8

// profile records, when that was asked for, where the CPU time of transfers
// goes and what the process has allocated so far: NAME.cpu and NAME.allocs, to
// be read with `go tool pprof`. It runs after the measurement, so that it
// cannot slow it down.
func (b *bench) profile(ctx context.Context, name string, dial dialFunc, way byte) (err error) {
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
	for range profiled {
		if _, err = transfer(ctx, dial, way, b.size, readSize); err != nil {
			break
		}
	}
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
