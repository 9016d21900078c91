package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
)

func TestDialWithoutANode(t *testing.T) {
	home := newHome(t)
	t.Setenv(HomeVariable, home)
	_, err := Dial(home)
	if !errors.Is(err, ErrNotRunning) || err.Error() != "no kith node is running in "+home+": start one with `kith up`" {
		t.Errorf("the default home: %v", err)
	}
	other := home + " two"
	if _, err := Dial(other); !errors.Is(err, ErrNotRunning) || !strings.HasSuffix(err.Error(), "`kith up --home '"+other+"'`") {
		t.Errorf("another home: %v", err)
	}
	// A socket that a killed node left.
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(home, SocketFile), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if _, err := Dial(home); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a stale socket: %v", err)
	}
}

func TestDialErrorsAreTold(t *testing.T) {
	e := &dialError{fs.ErrPermission, "text"}
	if !errors.Is(e, fs.ErrPermission) || e.Error() != "text" {
		t.Error(e)
	}
}

func TestNodeGoesAwayDuringACall(t *testing.T) {
	noLeaks(t)
	home := newHome(t)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(home, SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // accepts and hangs up
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	defer func() {
		ln.Close()
		<-done
	}()
	c, err := Dial(home)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = c.Status(ctx)
	var e *Error
	if !errors.As(err, &e) || e.Code != "unavailable" || !strings.Contains(e.Text, "went away") {
		t.Errorf("%v", err)
	}
}

func TestClientErrors(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	_, err := r.client.Expose(t.Context(), &controlv1.ExposeRequest{Target: "0", AllowAny: true})
	if !errors.Is(err, kith.ErrUsage) {
		t.Errorf("port 0: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.client.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// A text that is not UTF-8 was answered by "the node went away".
func TestRegressionNotUTF8(t *testing.T) {
	node := start(t, newHome(t))
	c, ctx, bad := node.client, t.Context(), "a\xff"
	for name, call := range map[string]func() error{
		"a field": func() error { _, err := c.Find(ctx, &controlv1.FindRequest{Peer: bad}); return err },
		"a list": func() error {
			_, err := c.EditBootstrap(ctx, &controlv1.EditBootstrapRequest{Add: []string{"x", bad}})
			return err
		},
		"a message in it": func() error {
			_, err := c.EditBook(ctx, &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Ban{Ban: &controlv1.BanPeer{Peer: "x", Reason: bad}}})
			return err
		},
		"a stream": func() error {
			for _, err := range c.Subscribe(ctx, bad) {
				return err
			}
			return nil
		},
	} {
		if err := call(); !errors.Is(err, kith.ErrUsage) || !strings.Contains(err.Error(), `"a\xff"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Publish(ctx, &controlv1.PublishRequest{Topic: "news", Data: []byte(bad)}); err != nil {
		t.Errorf("bytes may be any: %v", err)
	}
}

// An empty line came back as a failure of the disk.
func TestRegressionBootstrapLines(t *testing.T) {
	node := start(t, newHome(t))
	for _, line := range []string{"", " ", "# x", "127.0.0.1:4001", "nobody"} {
		_, err := node.client.EditBootstrap(t.Context(), &controlv1.EditBootstrapRequest{Add: []string{line}})
		if !errors.Is(err, kith.ErrUsage) || !strings.Contains(err.Error(), "/p2p/") || strings.Contains(err.Error(), "line") {
			t.Errorf("%q: %v", line, err)
		}
	}
	if res, err := node.client.EditBootstrap(t.Context(), &controlv1.EditBootstrapRequest{Add: []string{"/dnsaddr/nodes.invalid"}}); err != nil || len(res.GetAdded()) != 1 {
		t.Errorf("a name: %v, %v", res, err)
	}
}

// What was removed from the list came back as added, and empty.
func TestRegressionRemovedBootstrapLinesWereAnsweredAsAdded(t *testing.T) {
	node := start(t, newHome(t))
	edit := func(req *controlv1.EditBootstrapRequest) *controlv1.EditBootstrapResponse {
		t.Helper()
		res, err := node.client.EditBootstrap(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	lines := []string{"/dnsaddr/a.invalid", "/dnsaddr/b.invalid"}
	if res := edit(&controlv1.EditBootstrapRequest{Add: lines}); !slices.Equal(res.GetAdded(), lines) || len(res.GetRemoved()) != 0 {
		t.Errorf("add: %v", res)
	}
	twice := append(slices.Clone(lines), lines...)
	if res := edit(&controlv1.EditBootstrapRequest{Remove: twice}); len(res.GetAdded()) != 0 || !slices.Equal(res.GetRemoved(), lines) {
		t.Errorf("remove: %v", res)
	}
}
