package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// bodySize is the size of the site's one large file.
const bodySize = 16 << 20

// site is a small web site on a port of its own.
type site struct {
	pages  map[string][]byte
	ln     net.Listener
	server *http.Server
	done   chan error
}

// serveSite starts the site on a free port of 127.0.0.1.
func serveSite() (*site, error) {
	s := &site{pages: map[string][]byte{
		"/": []byte(`<!doctype html><html lang="en"><meta charset="utf-8"><title>kith try</title><link rel="stylesheet" href="style.css">
<h1>This page came through kith</h1>
<p>Your browser asked a port of this machine. One kith node listens there; it sent the request, encrypted and signed with its
key, to another node, which passed it to the web server behind it.</p>
<p><a href="random.bin">16 MiB of random bytes</a></p></html>
`),
		"/style.css":  []byte("body { font: 1.1rem/1.6 sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }\n"),
		"/random.bin": make([]byte, bodySize),
	}}
	rand.Read(s.pages["/random.bin"])
	var err error
	if s.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.done = make(chan error, 1)
	go func() { s.done <- s.server.Serve(s.ln) }()
	return s, nil
}

// ServeHTTP serves the pages.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, ok := s.pages[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.URL.Path == "/" {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	} else if r.URL.Path == "/style.css" {
		w.Header().Set("Content-Type", "text/css")
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(page)))
	w.Write(page)
}

func (s *site) addr() string { return s.ln.Addr().String() }

func (s *site) close() error {
	err := s.server.Close()
	if serr := <-s.done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// fetch gets every page through the forward and compares it with the original.
func (t *trial) fetch(ctx context.Context) (string, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	total := 0
	for path, want := range t.site.pages {
		got, n, err := fetchSum(ctx, transport, "http://"+t.siteLocal+path)
		switch {
		case err != nil:
			return "", err
		case n != int64(len(want)) || got != sha256.Sum256(want):
			return "", fmt.Errorf("%s came with other bytes: %d of them with SHA-256 %x, not %d with %x", path, n, got, len(want), sha256.Sum256(want))
		}
		total += len(want)
		t.steps.progress("%s", bytesText(uint64(total)))
	}
	return fmt.Sprintf("%d files, %s, all the same", len(t.site.pages), bytesText(uint64(total))), nil
}

// fetchSum gets a URL and returns the SHA-256 and length of its body.
func fetchSum(ctx context.Context, transport http.RoundTripper, url string) (sum [sha256.Size]byte, n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return sum, 0, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return sum, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return sum, 0, fmt.Errorf("%s answered %s", url, res.Status)
	}
	h := sha256.New()
	n, err = io.Copy(h, res.Body)
	h.Sum(sum[:0])
	return sum, n, err
}

// latency times new connections, each with one request for the front page.
func (t *trial) latency(ctx context.Context) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	want := sha256.Sum256(t.site.pages["/"])
	took := make([]time.Duration, 0, tryConnections)
	for i := range tryConnections {
		start := time.Now()
		got, _, err := fetchSum(ctx, transport, t.url)
		switch {
		case err != nil:
			return "", fmt.Errorf("connection %d: %w", i+1, err)
		case got != want:
			return "", fmt.Errorf("connection %d: the page came with other bytes", i+1)
		}
		took = append(took, time.Since(start))
		t.steps.progress("%d of %d", i+1, tryConnections)
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.steps.report.LatencyP50 = p50.Seconds() * 1000
	return fmt.Sprintf("p50 %s, p99 %s", millis(p50), millis(p99)), nil
}
