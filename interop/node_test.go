package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// node is a running kith node with a home of its own.
type node struct {
	*process
	ns   *namespace
	home string
	id   string // peer ID
	addr string // the most useful full address
}

// up runs `kith up` on 127.0.0.1 only, in a new home.
func up(t *testing.T, name string) *node {
	t.Helper()
	return upIn(t, nil, name, shortDir(t, "kith-"), "--local")
}

// upIn runs `kith up` in a home and a namespace and returns when it is up. When
// the test ends the node must end in time, in peace and without a data race.
func upIn(t *testing.T, ns *namespace, name, home string, args ...string) *node {
	t.Helper()
	n := &node{home: home, ns: ns}
	cmd := exec.Command(kithBinary, append([]string{"--home", home, "--json", "up"}, args...)...)
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=0")
	n.process = start(t, ns, "kith "+name, syscall.SIGTERM, cmd)
	t.Cleanup(func() { n.end(t) })
	n.wait(t, func() error {
		data, err := os.ReadFile(n.stdout)
		if err != nil {
			return err
		}
		line, _, ended := bytes.Cut(data, []byte("\n"))
		if !ended {
			return errors.New("it has not said that it is up")
		}
		var status struct {
			PeerID    string
			Addresses []string
		}
		if err := json.Unmarshal(line, &status); err != nil || status.PeerID == "" || len(status.Addresses) == 0 {
			t.Fatalf("kith up --json says %q: %v", line, err)
		}
		n.id, n.addr = status.PeerID, status.Addresses[0]
		return nil
	})
	return n
}

// end stops the node and checks how it ended.
func (n *node) end(t *testing.T) {
	t.Helper()
	asked := time.Now()
	n.stop()
	if took := time.Since(asked); took > 2*time.Second && !raceEnabled {
		t.Errorf("%s took %v to end after SIGTERM, want at most 2 s", n.name, took)
	}
	if n.err != nil {
		t.Errorf("%s ended with %v", n.name, n.err)
	}
	if out := n.output(); strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic") {
		t.Errorf("%s:\n%s", n.name, out)
	}
}

// run is one kith command on this node, however it ends.
func (n *node) run(t *testing.T, args ...string) result {
	t.Helper()
	return command(t, n.ns, kithBinary, append([]string{"--home", n.home}, args...)...)
}

// do is one kith command that must succeed; it returns what it printed.
func (n *node) do(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, n.ns, kithBinary, append([]string{"--home", n.home}, args...)...)
}

// ask is do with --json, decoded into answer.
func (n *node) ask(t *testing.T, answer any, args ...string) {
	t.Helper()
	out := n.do(t, append([]string{"--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		t.Fatalf("kith %s --json: %v in %s", strings.Join(args, " "), err, out)
	}
}

// mount is one row of `kith ls --json`.
type mount struct {
	Kind, Name, Local, LastError string
}

func (n *node) mounts(t *testing.T) []mount {
	t.Helper()
	var answer struct{ Mounts []mount }
	n.ask(t, &answer, "ls")
	return answer.Mounts
}

// says reports whether the last error of the named mount has all the pieces.
func (n *node) says(t *testing.T, name string, pieces ...string) error {
	t.Helper()
	for _, m := range n.mounts(t) {
		if m.Name != name {
			continue
		}
		for _, piece := range pieces {
			if !strings.Contains(m.LastError, piece) {
				return errors.New("the last error of " + name + " is " + m.LastError)
			}
		}
		return nil
	}
	return errors.New("no mount is named " + name)
}

// connect forwards a free local port of n to a service of server and returns
// its host:port.
func (n *node) connect(t *testing.T, server *node, name string) string {
	t.Helper()
	var answer struct {
		Mount   mount
		Warning string
	}
	n.ask(t, &answer, "connect", server.addr+"/"+name)
	if answer.Warning != "" || answer.Mount.Local == "" {
		t.Fatalf("kith connect: %+v", answer)
	}
	return answer.Mount.Local
}

// control is the node's control socket.
func (n *node) control() string { return filepath.Join(n.home, "control.sock") }
