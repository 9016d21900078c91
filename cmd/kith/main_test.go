package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program builds the binary under test, once and only when a test runs it: fuzz
// workers run TestMain too, and are killed.
var program = sync.OnceValues(func() (string, error) {
	var err error
	if programDir, err = os.MkdirTemp("/tmp", "kc"); err != nil {
		return "", err
	}
	path := filepath.Join(programDir, "kith")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return path, nil
})

// programDir holds the binary; written once by program, read after all tests.
var programDir string

func TestMain(m *testing.M) {
	os.Unsetenv("KITH_HOME")
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// command prepares a run of the program with a home of its own.
func command(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KITH_HOME="+home)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, home string, args ...string) result {
	t.Helper()
	return finish(t, command(t, home, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ok runs a command that must succeed and returns its standard output.
func ok(t *testing.T, home string, args ...string) string {
	t.Helper()
	r := run(t, home, args...)
	if r.code != exitDone {
		t.Fatalf("kith %s: exit code %d, stderr %q", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must fail with the code and one line on standard
// error in which every piece stands.
func fails(t *testing.T, home string, code int, args []string, pieces ...string) {
	t.Helper()
	r := run(t, home, args...)
	if r.code != code || r.stdout != "" {
		t.Errorf("kith %s: exit code %d, want %d; stdout %q", strings.Join(args, " "), r.code, code, r.stdout)
	}
	line, rest, _ := strings.Cut(r.stderr, "\n")
	prefix := "kith: "
	if args[0] == "p2p" {
		prefix = "Error: " // as ipfs p2p
	}
	if rest != "" || !strings.HasPrefix(line, prefix) {
		t.Errorf("kith %s: not one line: %q", strings.Join(args, " "), r.stderr)
	}
	for _, piece := range pieces {
		if !strings.Contains(line, piece) {
			t.Errorf("kith %s: no %q in %q", strings.Join(args, " "), piece, line)
		}
	}
}

// newHome returns a home with a short path.
func newHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "h")
}

// process is a command that goes on: its first line of standard output, and how
// it ended.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	first string

	stdout, stderr *lockedBuffer
	done           chan struct{} // closed when it has ended
}

// lockedBuffer can be read while it is written to.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// begin starts a command and waits for its first line of output.
func begin(t *testing.T, home string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(t, home, args...), stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if p.first, err = lines.ReadString('\n'); err != nil {
		p.cmd.Wait()
		t.Fatalf("kith %s ended before it said anything: %s", strings.Join(args, " "), p.stderr)
	}
	go func() {
		defer close(p.done)
		io.Copy(p.stdout, lines)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			p.cmd.Process.Kill()
			<-p.done
		}
	})
	return p
}

// signal sends a signal and returns the exit code, which must come in two
// seconds.
func (p *process) signal(s os.Signal) int {
	p.t.Helper()
	start := time.Now()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	code := p.wait()
	if took := time.Since(start); took > 2*time.Second {
		p.t.Errorf("%q took %s to end", p.cmd.Args, took)
	}
	return code
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%q does not end; stderr %s", p.cmd.Args, p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

// node is a running `kith up --local`.
type node struct {
	*process
	home, id string
	address  string // the first full address
}

func up(t *testing.T, home string, args ...string) *node {
	t.Helper()
	p := begin(t, home, append([]string{"up", "--local", "--json"}, args...)...)
	var st struct {
		PeerID    string `json:"peerId"`
		Addresses []string
	}
	if err := json.Unmarshal([]byte(p.first), &st); err != nil || len(st.Addresses) == 0 {
		t.Fatalf("up --json printed %q: %v", p.first, err)
	}
	return &node{p, home, st.PeerID, st.Addresses[0]}
}

// serve runs a TCP service for the test: each connection is handed to do and
// closed afterwards. It returns its port.
func serve(t *testing.T, do func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				do(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// echo sends back what it reads.
func echo(c *net.TCPConn) { io.Copy(c, c) }

// get fetches a URL over a connection of its own.
func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// freePort returns a port that nothing listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// terminate is the signal that service managers send.
const terminate = syscall.SIGTERM
