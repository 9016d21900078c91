package tunnel

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// PeerHeader names the caller in requests to an HTTP service. What a caller
// sends under this name is replaced.
const PeerHeader = "X-Kith-Peer"

// httpService serves the streams of an HTTP service: a reverse proxy to the
// target that names the caller and answers failures in words.
type httpService struct {
	l      *P2PListener
	srv    *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
	served sync.WaitGroup
	idle   func() // closes idle connections to the target

	mu   sync.Mutex // guards live
	live int        // connections that the server has
}

// ended counts a connection out; after the last one of a closed service none
// to the target is kept.
func (s *httpService) ended() {
	s.mu.Lock()
	s.live--
	last := s.live == 0
	s.mu.Unlock()
	select {
	case <-s.done:
		if last {
			s.idle()
		}
	default:
	}
	s.l.p.end("")
}

type peerKey struct{}

func newHTTPService(l *P2PListener) *httpService {
	s := &httpService{l: l, conns: make(chan net.Conn), done: make(chan struct{})}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, e := l.dialer.dial(ctx)
			if e != nil {
				return nil, e
			}
			return c, nil
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
	s.idle = transport.CloseIdleConnections
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // events and long polls pass at once
		ErrorLog:      slog.NewLogLogger(l.p.log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = "kith" // DialContext knows the target
			r.Out.Host = r.In.Host
			id, _ := r.In.Context().Value(peerKey{}).(peer.ID)
			cleanHeader(r.Out)
			r.Out.Header.Set(PeerHeader, id.String())
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e := reasonOf(err)
			switch {
			case r.Context().Err() != nil:
				e = &Error{Reason: ReasonReset, Detail: "the caller went away before the answer", Err: err}
			case e == nil || e.Reason != ReasonTarget:
				e = &Error{Reason: ReasonTarget, Detail: "the service's target broke off", Err: err}
			}
			id, _ := r.Context().Value(peerKey{}).(peer.ID)
			l.p.refused(l.mount, id, e)
			http.Error(w, "kith: "+e.Error(), http.StatusBadGateway)
		},
	}
	s.srv = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l.p.wg.Add(1) // a hijacked connection outlives StateHijacked in here
			defer l.p.wg.Done()
			proxy.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				s.ended() // for serve's count
			}
		},
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       l.cfg.Limits.IdleTimeout,
		ErrorLog:          slog.NewLogLogger(l.p.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, h.RemotePeer())
			}
			return ctx
		},
	}
	s.served.Go(func() {
		s.srv.Serve((*httpListener)(s))
		transport.CloseIdleConnections()
	})
	return s
}

// serve hands a stream to the server. The limit is given back when the
// connection ends.
func (s *httpService) serve(in *inbound) {
	l := s.l
	if in.rich {
		if err := writeReply(in.c, nil); err != nil {
			in.c.Reset()
			l.limits.give()
			return
		}
	}
	c := l.p.track(in.c, l.mount, KindExpose, l.name, l.limits, l.limits.give)
	l.p.stats.served.Add(1)
	l.p.wg.Add(1) // the caller's own count keeps this above zero
	s.mu.Lock()
	s.live++
	s.mu.Unlock()
	select {
	case s.conns <- c:
	case <-s.done:
		s.ended()
		c.ResetWithCode(ReasonClosed.code())
	}
}

// cleanHeader takes out what a caller could pass itself off with: our header
// in a spelling that some targets fold into it, or as a trailer, and an upgrade
// to a protocol in which requests would no longer pass through here.
func cleanHeader(r *http.Request) {
	for name := range r.Header {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), PeerHeader) {
			r.Header.Del(name)
			delete(r.Header, name) // in a spelling that is not canonical
		}
	}
	for name := range r.Trailer {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), PeerHeader) {
			delete(r.Trailer, name)
		}
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "h2c") || r.Header.Get("Http2-Settings") != "" {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		r.Header.Del("Http2-Settings")
	}
}

// close stops accepting. Requests under way are finished, and their connections
// closed then.
func (s *httpService) close() {
	s.once.Do(func() { close(s.done) })
	s.srv.SetKeepAlivesEnabled(false)
	s.served.Wait()
}

// httpListener is the net.Listener of the server.
type httpListener httpService

func (s *httpListener) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *httpListener) Close() error { return nil }

func (s *httpListener) Addr() net.Addr { return s.l.p.inner.Addr() }
