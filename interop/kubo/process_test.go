package kubo

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
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	readyTimeout   = 60 * time.Second // a node that is not up by then is broken
	commandTimeout = 60 * time.Second // the same for one command
	stopTimeout    = 15 * time.Second // from SIGTERM to SIGKILL
)

// process is a long-running child with its output in a file. One goroutine
// waits for it; err is valid once exited is closed.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error
}

// start runs cmd in the background. When the test ends the child is stopped
// and waited for; if the test failed, its log is printed.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{
		cmd:    cmd,
		log:    filepath.Join(t.TempDir(), name+".log"),
		exited: make(chan struct{}),
	}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of %s (%s):\n%s", name, strings.Join(cmd.Args, " "), p.output())
		}
	})
	return p
}

// stop asks the child to end, insists after stopTimeout, and returns when it
// is gone. Safe to call again.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// output returns what the child has written so far, its end if that is long.
func (p *process) output() []byte {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	const most = 64 << 10
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return data
}

// waitReady asks ready again and again until it reports no error, the child
// exits or readyTimeout passes; the last two fail the test.
func (p *process) waitReady(t *testing.T, what string, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	err := poll(ctx, func() error {
		select {
		case <-p.exited:
			t.Fatalf("%s ended before it was ready: %v", what, p.err)
		default:
		}
		return ready(ctx)
	})
	if err != nil {
		t.Fatalf("%s is not ready: %v", what, err)
	}
}

// poll calls check until it returns nil or ctx ends; then it returns the last
// error that check gave.
func poll(ctx context.Context, check func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-tick.C:
		}
	}
}

// result is how one command ended.
type result struct {
	stdout, stderr string
	code           int
}

// command runs a program to its end. A program that cannot be started or does
// not end in time fails the test; its exit code does not.
func command(t *testing.T, env []string, bin string, args ...string) result {
	t.Helper()
	// Not under t.Context: commands also run while a test cleans up.
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%s %s: %v (%v)\n%s%s", filepath.Base(bin), strings.Join(args, " "), err, ctx.Err(), r.stdout, r.stderr)
	}
	return r
}

// ports remembers what freePort has handed out.
var ports struct {
	sync.Mutex
	taken map[int]bool
}

// freePort finds a TCP port on 127.0.0.1 that nobody listens on and that no
// earlier call returned. It stays below 32768, where Linux takes the ports of
// outgoing connections from, so that nothing takes it before the node does.
func freePort(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.taken == nil {
		ports.taken = make(map[int]bool)
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if ports.taken[port] {
			continue
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		ports.taken[port] = true
		return port
	}
	t.Fatal("no free port between 20000 and 32000 on 127.0.0.1")
	return 0
}
