package kubo

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the child should the test process be
// killed before its clean-up runs.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
