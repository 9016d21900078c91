package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

// lockedBuffer is a log that a test reads afterwards.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestOneNodeAHome(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	err := Run(t.Context(), Options{Home: r.home})
	if !errors.Is(err, kith.ErrHomeInUse) {
		t.Errorf("a second node: %v", err)
	}
	// The first is none the worse.
	if _, err := r.client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRestartKeepsTheNode(t *testing.T) {
	noLeaks(t)
	home := newHome(t)
	first := start(t, home)
	before := first.status
	first.end(t)
	again := start(t, home).status
	if again.GetPeerId() != before.GetPeerId() || again.GetAddresses()[0] != before.GetAddresses()[0] {
		t.Errorf("was %s at %s, is %s at %s", before.GetPeerId(), before.GetAddresses()[0], again.GetPeerId(), again.GetAddresses()[0])
	}
}

func TestRunReportsWhatIsInTheWay(t *testing.T) {
	noLeaks(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, home string)
		config  func(*Config)
		piece   string
		usage   bool
	}{
		{"a port that is taken", nil, func(c *Config) { c.Listen = []string{"/ip4/127.0.0.1/tcp/" + port} }, "another program", false},
		{"a malformed listen address", nil, func(c *Config) { c.Listen = []string{"4001"} }, "4001", true},
		{"a file in the place of the socket", func(t *testing.T, home string) {
			write(t, filepath.Join(home, SocketFile), "x", 0o600)
		}, nil, "in the way", false},
		{"a key that others can read", func(t *testing.T, home string) {
			write(t, filepath.Join(home, "key"), "x", 0o644)
		}, nil, "chmod 600", false},
		{"regression: a key that is a directory", func(t *testing.T, home string) {
			if err := os.Mkdir(filepath.Join(home, "key"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil, "move it elsewhere", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := newHome(t)
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			if tc.prepare != nil {
				tc.prepare(t, home)
			}
			err := Run(t.Context(), Options{Home: home, Override: func(c *Config) {
				c.LocalOnly = true
				if tc.config != nil {
					tc.config(c)
				}
			}})
			if err == nil || !strings.Contains(err.Error(), tc.piece) || errors.Is(err, kith.ErrUsage) != tc.usage {
				t.Errorf("%v", err)
			}
		})
	}
	if err := Run(t.Context(), Options{}); !errors.Is(err, kith.ErrUsage) {
		t.Errorf("no home: %v", err)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestLogFormats(t *testing.T) {
	noLeaks(t)
	for _, tc := range []struct {
		config string
		check  func(line string) bool
	}{
		{`log_format = "text"`, func(line string) bool { return strings.Contains(line, `msg="node is up"`) }},
		{`log_format = "json"`, func(line string) bool {
			return strings.Contains(line, `"node is up"`) && json.Valid([]byte(line))
		}},
		{`log_level = "error"`, func(line string) bool { return line == "" }},
	} {
		home := newHome(t)
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(home, ConfigFile), tc.config, 0o600)
		var log lockedBuffer
		ready := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- Run(t.Context(), Options{
				Home: home, Log: &log,
				Override: func(c *Config) { c.LocalOnly = true },
				Ready:    func(*controlv1.StatusResponse) { close(ready) },
			})
		}()
		<-ready
		c, err := Dial(home)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		line, _, _ := strings.Cut(log.b.String(), "\n")
		if !tc.check(line) {
			t.Errorf("%s: %q", tc.config, line)
		}
	}
}
