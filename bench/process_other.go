//go:build !linux

package main

import "os/exec"

// dieWithParent does nothing here: a killed run leaves its daemons behind.
func dieWithParent(*exec.Cmd) {}
