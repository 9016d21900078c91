package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine is what the figures depend on besides the code.
type machine struct {
	Date       string `json:"date"`
	Commit     string `json:"commit"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Cores      int    `json:"cores"`
	CPU        string `json:"cpu"`
	Kernel     string `json:"kernel"`
	LoadBefore string `json:"loadBefore"` // average of the last minute
	LoadAfter  string `json:"loadAfter"`
}

// machineFacts asks the machine. What it does not tell is "unknown".
func machineFacts(ctx context.Context) machine {
	return machine{
		Date:       time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		Commit:     commit(ctx),
		Go:         runtime.Version(),
		OS:         runtime.GOOS,
		Arch:       runtime.GOARCH,
		Cores:      runtime.GOMAXPROCS(0),
		CPU:        cpuModel(),
		Kernel:     firstWord("/proc/sys/kernel/osrelease"),
		LoadBefore: loadAverage(),
	}
}

// commit names what was measured, with "+" when the tree differs from it.
func commit(ctx context.Context) string {
	id, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	// Notes beside the code do not change what is measured.
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":/*.go", ":/*go.mod").Output()
	if err != nil || len(changed) > 0 {
		return strings.TrimSpace(string(id)) + "+"
	}
	return strings.TrimSpace(string(id))
}

func loadAverage() string { return firstWord("/proc/loadavg") }

func firstWord(path string) string {
	data, _ := os.ReadFile(path)
	if words := strings.Fields(string(data)); len(words) > 0 {
		return words[0]
	}
	return "unknown"
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
