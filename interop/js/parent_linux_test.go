package js

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the child should the test process be
// killed before its clean-up runs.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
