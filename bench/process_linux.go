package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the daemon should this program be killed
// before it can.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
