package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	patience    = 60 * time.Second // for what must happen; far beyond what it takes
	stopTimeout = 15 * time.Second // from the signal to SIGKILL
)

// program finds an installed program by its name, or fails the test.
func program(t *testing.T, name string, globs ...string) string {
	t.Helper()
	for _, g := range globs {
		if found, _ := filepath.Glob(g); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed: run interop/install.sh", name)
	return ""
}

// process is a long-running child with its output in two files. One goroutine
// waits for it; err is valid once exited is closed.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr string // files
	quit           syscall.Signal
	exited         chan struct{}
	err            error
}

// start runs cmd in the background, in ns if that is not nil, until the test
// ends, when it is stopped with the signal quit and waited for. A failed test
// prints what it wrote.
func start(t *testing.T, ns *namespace, name string, quit syscall.Signal, cmd *exec.Cmd) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{
		name: name, cmd: cmd, quit: quit, exited: make(chan struct{}),
		stdout: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"),
	}
	cmd.Stdout, cmd.Stderr = create(t, p.stdout), create(t, p.stderr)
	if err := launch(ns, cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s (%s), ended with %v:\n%s", name, strings.Join(cmd.Args, " "), p.err, p.output())
		}
	})
	return p
}

// create makes a file that is closed, on our side, when the test ends.
func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// launch starts cmd in ns, or here. The kernel ends the child should this
// process be killed before it cleans up.
func launch(ns *namespace, cmd *exec.Cmd) (err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if ns == nil {
		return cmd.Start()
	}
	ns.do(func() { err = cmd.Start() })
	return err
}

// stop asks the child to end, insists after stopTimeout, and returns when it
// is gone. Safe to call again.
func (p *process) stop() {
	p.cmd.Process.Signal(p.quit)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// output returns what the child has written, the end of it if that is long.
func (p *process) output() string {
	var b strings.Builder
	for _, path := range []string{p.stdout, p.stderr} {
		data, err := os.ReadFile(path)
		if err != nil {
			data = []byte(err.Error())
		}
		b.Write(data[max(0, len(data)-16<<10):])
	}
	return b.String()
}

// wait asks ready again and again until it reports no error. The test fails
// when the child ends first or patience does.
func (p *process) wait(t *testing.T, ready func() error) {
	t.Helper()
	eventually(t, p.name+" is not ready", func() error {
		select {
		case <-p.exited:
			t.Fatalf("%s ended before it was ready: %v\n%s", p.name, p.err, p.output())
		default:
		}
		return ready()
	})
}

// eventually calls check until it returns nil; after patience it fails the
// test with what check said last.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}

// result is how one command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
}

// command runs a program to its end, in ns if that is not nil. One that cannot
// be started or does not end in time fails the test; its exit code does not.
func command(t *testing.T, ns *namespace, bin string, args ...string) result {
	t.Helper()
	return commandWith(t, ns, nil, bin, args...)
}

// commandWith is command with more environment.
func commandWith(t *testing.T, ns *namespace, env []string, bin string, args ...string) result {
	t.Helper()
	// Not under t.Context: commands also run while a test cleans up.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := launch(ns, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil && (!isExit(err) || ctx.Err() != nil) {
		t.Fatalf("%s %s: %v (%v)\n%s%s", filepath.Base(bin), strings.Join(args, " "), err, ctx.Err(), stdout.String(), stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func isExit(err error) bool {
	_, ok := errors.AsType[*exec.ExitError](err)
	return ok
}

// must is command for a program that has to succeed; it returns what it
// printed.
func must(t *testing.T, ns *namespace, bin string, args ...string) string {
	t.Helper()
	r := command(t, ns, bin, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: %v", filepath.Base(bin), strings.Join(args, " "), r)
	}
	return r.stdout
}

// freePort finds a TCP port on 127.0.0.1 that nobody listens on, below 32768,
// where Linux takes the ports of outgoing connections from.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(10000))) // kith picks from 20000 on
		if err == nil {
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
	}
	t.Fatal("no free port between 10000 and 20000 on 127.0.0.1")
	return ""
}

// shortDir makes a directory whose path leaves room for the name of a unix
// socket, which t.TempDir does not.
func shortDir(t *testing.T, prefix string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
