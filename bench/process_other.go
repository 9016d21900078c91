//go:build !linux

package main

import (
	"os/exec"
	"time"
)

// dieWithParent does nothing here: a killed run leaves its daemons behind.
func dieWithParent(*exec.Cmd) {}

// ownCPU is not known here.
func ownCPU() time.Duration { return 0 }
