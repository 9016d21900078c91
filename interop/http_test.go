package interop

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// response is what curl got.
type response struct {
	result
	status   string
	headers  http.Header
	body     []byte
	connects string // how many connections it made
}

// curl fetches a URL; args go before it.
func curl(t *testing.T, ns *namespace, url string, args ...string) response {
	t.Helper()
	dir := t.TempDir()
	args = append([]string{"-s", "-S", "--max-time", "60", "--noproxy", "*", "-o", filepath.Join(dir, "body"), "-D", filepath.Join(dir, "head"),
		"-w", "%{http_code} %{num_connects}"}, args...)
	r := response{result: command(t, ns, program(t, "curl"), append(args, url)...), headers: http.Header{}}
	r.status, r.connects, _ = strings.Cut(r.stdout, " ")
	r.body, _ = os.ReadFile(filepath.Join(dir, "body"))
	head, _ := os.ReadFile(filepath.Join(dir, "head"))
	for line := range strings.Lines(string(head)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			r.headers.Add(key, strings.TrimSpace(value))
		}
	}
	return r
}

func (r response) String() string {
	return fmt.Sprintf("status %s, %v, body of %d bytes %.200q; curl: %v", r.status, r.headers, len(r.body), r.body, r.result)
}

// web is nginx behind a node, and a second node that uses it.
type web struct {
	nginx        *nginx
	server, user *node
}

func newWeb(t *testing.T) *web {
	t.Helper()
	return &web{startNginx(t), up(t, "server"), up(t, "user")}
}

// serve exposes a target of nginx and returns the URL at which the other node
// has it.
func (w *web) serve(t *testing.T, name, target string, flags ...string) string {
	t.Helper()
	w.server.do(t, append([]string{"expose", target, "--name", name, "--allow", w.user.id}, flags...)...)
	return "http://" + w.user.connect(t, w.server, name)
}

// TestFilesFromNginx fetches files through a tunnel: whole, in ranges, and many
// on one connection.
func TestFilesFromNginx(t *testing.T) {
	w := newWeb(t)
	large := w.nginx.large
	for name, flags := range map[string][]string{"plain": nil, "http": {"--http"}} {
		t.Run(name, func(t *testing.T) {
			url := w.serve(t, name, "unix:"+w.nginx.socket(), flags...)
			if r := curl(t, nil, url+"/large"); r.status != "200" || !bytes.Equal(r.body, large) {
				t.Error(r)
			}
			if r := curl(t, nil, url+"/missing"); r.status != "404" {
				t.Error(r)
			}
			if r := curl(t, nil, url+"/large", "-I"); r.status != "200" || r.headers.Get("Content-Length") != fmt.Sprint(len(large)) {
				t.Error(r)
			}
			for _, part := range []struct{ from, to int }{{0, 0}, {1, 65536}, {5_000_000, 9_999_999}, {len(large) - 1, len(large) - 1}} {
				r := curl(t, nil, url+"/large", "-r", fmt.Sprintf("%d-%d", part.from, part.to))
				if r.status != "206" || !bytes.Equal(r.body, large[part.from:part.to+1]) {
					t.Errorf("range %v: %v", part, r)
				}
			}
			if r := curl(t, nil, url+"/large", "-r", "99999999-"); r.status != "416" {
				t.Error(r)
			}
			// Twenty files, one connection: the last transfer opens none.
			var again []string
			for range 19 {
				again = append(again, url+"/small")
			}
			r := command(t, nil, program(t, "curl"), append([]string{"-s", "-S", "--noproxy", "*", "-w", "%{num_connects},"}, append(again, url+"/small")...)...)
			want := "small\n1," + strings.Repeat("small\n0,", 19)
			if r.code != 0 || r.stdout != want {
				t.Errorf("keep-alive: %v", r)
			}
			w.nginx.sees(t, "GET /large|206")
		})
	}
}

// TestNginxLearnsThePeer: an HTTP mount names the caller, whatever the caller
// says about itself.
func TestNginxLearnsThePeer(t *testing.T) {
	w := newWeb(t)
	url := w.serve(t, "web", "unix:"+w.nginx.socket(), "--http")
	id := w.user.id
	for what, args := range map[string][]string{
		"nothing said":  nil,
		"spoofed":       {"-H", "X-Kith-Peer: " + w.server.id},
		"spoofed twice": {"-H", "X-Kith-Peer: " + w.server.id, "-H", "x-kith-peer: root"},
		"to be dropped": {"-H", "Connection: keep-alive, X-Kith-Peer"},
		"empty":         {"-H", "X-Kith-Peer;"},
		"HTTP/1.0":      {"-0", "-H", "X-Kith-Peer: root"},
	} {
		r := curl(t, nil, url+"/small", args...)
		if r.status != "200" || string(r.body) != "small\n" || r.headers.Get("X-Seen") != id || len(r.headers["X-Seen"]) != 1 {
			t.Errorf("%s: nginx saw %q, want %s: %v", what, r.headers["X-Seen"], id, r)
		}
		if want := strings.TrimPrefix(url, "http://"); r.headers.Get("X-Host") != want {
			t.Errorf("%s: nginx saw the host %q, want the one in the URL, %s", what, r.headers.Get("X-Host"), want)
		}
	}
	w.nginx.sees(t, id+"|", "GET /small|200")

	// A plain mount changes nothing.
	plain := w.serve(t, "plain", "unix:"+w.nginx.socket())
	if r := curl(t, nil, plain+"/small", "-H", "X-Kith-Peer: anything"); r.headers.Get("X-Seen") != "anything" {
		t.Error(r)
	}
}

// TestNginxStops: the person at the browser reads why.
func TestNginxStops(t *testing.T) {
	w := newWeb(t)
	url := w.serve(t, "web", "unix:"+w.nginx.socket(), "--http")
	plain := w.serve(t, "plain", "unix:"+w.nginx.socket())
	if r := curl(t, nil, url+"/small"); r.status != "200" {
		t.Fatal(r)
	}
	w.nginx.stop()

	r := curl(t, nil, url+"/small")
	if r.status != "502" || !strings.Contains(string(r.body), "target refused") || !strings.Contains(string(r.body), "not running") {
		t.Error(r)
	}
	t.Logf("the page: %s", r.body)
	if err := w.server.says(t, "web", "target refused"); err != nil {
		t.Error(err)
	}

	if r := curl(t, nil, plain+"/small"); r.code == 0 {
		t.Errorf("a plain mount: %v", r)
	} else if r.code != 52 && r.code != 56 && r.code != 7 { // nothing, reset, or reset before curl looked
		t.Errorf("a plain mount: %v", r)
	}
	for _, n := range []*node{w.server, w.user} {
		if err := n.says(t, "plain", "target refused"); err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
	}

	w.nginx.run(t)
	for _, at := range []string{url, plain} {
		if r := curl(t, nil, at+"/small"); r.status != "200" || string(r.body) != "small\n" {
			t.Error(r)
		}
	}
}

// TestNginxReadsTheProxyProtocol: the header of either version is one that
// nginx takes, and says where the peer connected from.
func TestNginxReadsTheProxyProtocol(t *testing.T) {
	w := newWeb(t)
	for _, version := range []string{"1", "2"} {
		t.Run("version "+version, func(t *testing.T) {
			url := w.serve(t, "proxy"+version, w.nginx.Port, "--proxy-protocol", version)
			if r := curl(t, nil, url+"/large"); r.status != "200" || !bytes.Equal(r.body, w.nginx.large) || r.headers.Get("X-From") != "127.0.0.1" {
				t.Error(r)
			}
		})
	}
	w.nginx.sees(t, "|127.0.0.1|", "GET /large|200")

	// Without the header nginx refuses: the checks above do see it.
	url := w.serve(t, "bare", w.nginx.Port)
	if r := curl(t, nil, url+"/small"); r.status == "200" {
		t.Errorf("nginx took a connection without a PROXY header: %v", r)
	}
}
