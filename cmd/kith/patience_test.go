package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"google.golang.org/protobuf/proto"
)

// fakeNode answers the control calls of a home, and hands over what Connect is
// asked for.
func fakeNode(t *testing.T) (home string, asked <-chan *controlv1.ConnectRequest) {
	t.Helper()
	home = newHome(t)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(home, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	requests := make(chan *controlv1.ConnectRequest, 1)
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		req := &controlv1.ConnectRequest{}
		if !strings.HasSuffix(r.URL.Path, "/Connect") || err != nil || proto.Unmarshal(body, req) != nil {
			http.Error(w, "no", http.StatusNotImplemented)
			return
		}
		requests <- req
		answer, _ := proto.Marshal(&controlv1.ConnectResponse{Mount: &controlv1.Mount{Id: 1, Name: req.Name, Local: "127.0.0.1:1"}})
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Write(answer)
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return home, requests
}

// TestConnectPatience: unless told otherwise a connection waits as long as the
// node says, which is 10 s for the peer and 30 s in all (tunnel's
// TestHowLongAConnectionWaits); told otherwise, the node is told.
func TestConnectPatience(t *testing.T) {
	for _, tc := range []struct {
		flags         []string
		wait, timeout time.Duration // 0: the node's
	}{
		{nil, 0, 0},
		{[]string{"--wait", "3s"}, 3 * time.Second, 0},
		{[]string{"--timeout", "7s"}, 0, 7 * time.Second},
		{[]string{"--wait", "1m", "--timeout", "2m"}, time.Minute, 2 * time.Minute},
	} {
		home, asked := fakeNode(t)
		ok(t, home, append([]string{"connect", stranger + "/web"}, tc.flags...)...)
		req := <-asked
		if (req.GetWait() != nil) != (tc.wait != 0) || (req.GetTimeout() != nil) != (tc.timeout != 0) ||
			req.GetWait().AsDuration() != tc.wait || req.GetTimeout().AsDuration() != tc.timeout || req.GetName() != "web" {
			t.Errorf("%q asks for %v", tc.flags, req)
		}
	}
	help := ok(t, newHome(t), "connect", "--help")
	for flag, value := range map[string]string{"--wait": "(default 10s)", "--timeout": "(default 30s)"} {
		said := false
		for line := range strings.Lines(help) {
			said = said || strings.Contains(line, flag+" ") && strings.Contains(line, value)
		}
		if !said {
			t.Errorf("the help of connect does not say that %s is %s by default: %s", flag, value, help)
		}
	}
}
