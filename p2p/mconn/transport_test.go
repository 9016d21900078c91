package mconn

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/p2p"
)

func listen(t testing.TB, opts Options) *Transport {
	t.Helper()
	opts.Listen = "127.0.0.1:0"
	tr, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestTransport(t *testing.T) {
	goroutines(t)
	server := listen(t, Options{})
	client, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	endpoints := server.Endpoints()
	if len(endpoints) != 1 || endpoints[0].Validate() != nil || endpoints[0].Port == 0 || len(client.Endpoints()) != 0 {
		t.Fatal(endpoints, client.Endpoints())
	}
	if p := server.Protocols(); len(p) != 1 || p[0] != "mconn" || p[0].Validate() != nil {
		t.Error(p)
	}
	var accepted p2p.Connection
	var dialled p2p.Connection
	if err := both(func() (err error) {
		accepted, err = server.Accept()
		return err
	}, func() (err error) {
		dialled, err = client.Dial(t.Context(), endpoints[0])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	defer dialled.Close()
	if dialled.RemoteEndpoint().String() != endpoints[0].String() || accepted.LocalEndpoint().String() != endpoints[0].String() ||
		accepted.RemoteEndpoint().String() != dialled.LocalEndpoint().String() || len(dialled.LocalEndpoint().IP) != 4 {
		t.Error(dialled.LocalEndpoint(), dialled.RemoteEndpoint(), accepted.LocalEndpoint(), accepted.RemoteEndpoint())
	}
	server.Close()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := server.Accept(); err != io.EOF {
		t.Error("accept after close:", err)
	}
	if _, err := client.Dial(t.Context(), endpoints[0]); err == nil {
		t.Error("dialled a closed transport")
	}
	// Live connections stay.
	kx, ky := seeded(t, 3), seeded(t, 4)
	if err := both(func() error {
		_, _, err := dialled.Handshake(t.Context(), infoOf(kx), kx)
		return err
	}, func() error {
		_, _, err := accepted.Handshake(t.Context(), infoOf(ky), ky)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := both(func() error { return dialled.SendMessage(1, []byte("hi")) }, func() error {
		_, m, err := accepted.ReceiveMessage()
		if string(m) != "hi" {
			t.Errorf("%q", m)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestAcceptEndsWithClose(t *testing.T) {
	for name, opts := range map[string]Options{"listening": {Listen: "127.0.0.1:0"}, "dialling only": {}} {
		tr, err := New(opts)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := tr.Accept()
			ended <- err
		}()
		tr.Close()
		if err := <-ended; err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := tr.Dial(t.Context(), p2p.Endpoint{Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1), Port: 1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: dial after close: %v", name, err)
		}
	}
}

func TestBadDials(t *testing.T) {
	tr := listen(t, Options{})
	for name, e := range map[string]p2p.Endpoint{
		"nothing": {}, "no IP": {Protocol: Protocol, Path: "/x", Port: 1}, "no port": {Protocol: Protocol, IP: net.IPv4(127, 0, 0, 1)},
		"another protocol": {Protocol: "memory", IP: net.IPv4(127, 0, 0, 1), Port: 1},
	} {
		if _, err := tr.Dial(t.Context(), e); err == nil || !strings.Contains(err.Error(), "cannot dial") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tr.Dial(ctx, tr.Endpoints()[0]); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		opts  Options
		fault string
	}{
		"zero":               {Options{}, ""},
		"all":                {Options{HandshakeTimeout: 1, PingInterval: 3, PongTimeout: 2, SendRate: 1, RecvRate: 1}, ""},
		"negative timeout":   {Options{HandshakeTimeout: -1}, "HandshakeTimeout is negative"},
		"negative interval":  {Options{PingInterval: -1}, "PingInterval is negative"},
		"negative rate":      {Options{SendRate: -1}, "rate is negative"},
		"pong above ping":    {Options{PongTimeout: time.Hour}, "not below"},
		"nowhere to listen":  {Options{Listen: "256.0.0.1:0"}, "listen on 256.0.0.1:0"},
		"ping below default": {Options{PingInterval: time.Second}, "not below"},
	} {
		tr, err := New(c.opts)
		if (c.fault == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			tr.Close()
		} else if nx, _ := net.Pipe(); c.opts.Listen == "" {
			if _, err := NewConnection(nx, c.opts); err == nil {
				t.Errorf("%s: a connection takes it", name)
			}
		}
	}
	if e := endpointOf(nil); e.Protocol != Protocol {
		t.Error(e)
	}
}
