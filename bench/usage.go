package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory returns a figure of both processes, in MiB.
func (d *daemons) memory(key string) (near, far float64, err error) {
	if near, err = memory(d.near.pid(), key); err != nil {
		return 0, 0, err
	}
	far, err = memory(d.far.pid(), key)
	return near, far, err
}

func memoryNote(d *daemons) string {
	near, far, err := d.memory("VmRSS")
	if err != nil {
		return err.Error()
	}
	nearPeak, farPeak, err := d.memory("VmHWM")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s now: forwarding node %.0f MiB (peak %.0f), exposing node %.0f MiB (peak %.0f)", d.name, near, nearPeak, far, farPeak)
}

// memory reads one line of a process's status, in MiB. Linux only.
func memory(pid int, key string) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == key+":" && words[2] == "kB" {
			kib, err := strconv.ParseFloat(words[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("memory of process %d: there is no %s", pid, key)
}

// cpu returns the CPU time that both processes have used, in seconds. Linux
// only. It says more than the clock does on a machine that has other work too.
func (d *daemons) cpu() (float64, error) {
	near, err := cpu(d.near.pid())
	if err != nil {
		return 0, err
	}
	far, err := cpu(d.far.pid())
	return near + far, err
}

// ticks is how many of the units of /proc/PID/stat are a second, on every
// architecture that Go runs on.
const ticks = 100

func cpu(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	// The second word is the program's name in parentheses and may have
	// spaces; time in user and kernel mode are words 14 and 15.
	_, rest, _ := strings.Cut(string(data), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0, fmt.Errorf("CPU time of process %d: %q is not understood", pid, data)
	}
	user, err := strconv.ParseFloat(words[11], 64)
	if err != nil {
		return 0, err
	}
	kernel, err := strconv.ParseFloat(words[12], 64)
	return (user + kernel) / ticks, err
}

// costs sums up what CPU time two kinds of daemons use for the same work.
type costs struct {
	ours, theirs float64 // seconds
	pairs        int
}

// note says how much it was for one of per units of a pair.
func (c *costs) note(other string, per float64, unit string) string {
	each := func(seconds float64) string { return figure(seconds * 1000 / float64(c.pairs) / per) }
	return fmt.Sprintf("CPU time of both nodes, ms for each %s: kith %s, %s %s (ratio %.3f)",
		unit, each(c.ours), other, each(c.theirs), c.ours/c.theirs)
}
