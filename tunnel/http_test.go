package tunnel

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

func TestHTTPServiceNamesThePeer(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, strings.Join(r.Header.Values(PeerHeader), "+"), body)
	}))
	defer srv.Close()
	expose(t, a, "web", ma.StringCast("/ip4/127.0.0.1/tcp/"+portOf(srv.Listener)), AllowAny(), func(c *ServiceConfig) { c.HTTP = true })
	url := "http://" + forwardTo(t, b, a, "web")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i := range 3 { // on one connection
		req, err := http.NewRequest("POST", url+"/path?q=1", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Add(PeerHeader, "somebody else")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "POST /path?q=1 " + b.id.String() + " body"; string(got) != want {
			t.Fatalf("request %d: %q, want %q", i, got, want)
		}
	}
	if s := a.Stats(); s.Served != 1 {
		t.Errorf("%d connections, want one that is kept alive", s.Served)
	}
	if s := a.Streams.List(); len(s) != 1 || s[0].BytesIn == 0 || s[0].BytesOut == 0 {
		t.Errorf("streams: %+v", s)
	}
}

func TestHTTPServiceSaysWhy(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "down", ma.StringCast("/unix/nonexistent/web.sock"), AllowAny(), func(c *ServiceConfig) { c.HTTP = true })
	resp, err := http.Get("http://" + forwardTo(t, b, a, "down"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(got), "target is not running") {
		t.Fatalf("%s: %s", resp.Status, got)
	}
	if n := a.Stats().Refused[ReasonTarget]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

// An upgraded connection (a WebSocket, say) is carried both ways, and ended
// with the node.
func TestHTTPUpgrade(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.Copy(c, rw)
	}))
	defer srv.Close()
	expose(t, a, "web", ma.StringCast("/ip4/127.0.0.1/tcp/"+portOf(srv.Listener)), AllowAny(), func(c *ServiceConfig) { c.HTTP = true })
	c := dial(t, forwardTo(t, b, a, "web"))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	roundTrip(t, c, "after the upgrade")
	a.P2P.Close() // waits for the upgraded connection too
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("a cut connection ended with a clean EOF")
	}
}
