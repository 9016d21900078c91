package tunnel

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
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
}

type peerKey struct{}

func newHTTPService(l *P2PListener) *httpService {
	s := &httpService{l: l, conns: make(chan net.Conn), done: make(chan struct{})}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, e := dialTarget(ctx, l.target, l.limits)
			if e != nil {
				return nil, e
			}
			return c, nil
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // events and long polls pass at once
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = "kith" // DialContext knows the target
			r.Out.Host = r.In.Host
			id, _ := r.In.Context().Value(peerKey{}).(peer.ID)
			r.Out.Header.Set(PeerHeader, id.String())
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			e := reasonOf(err)
			if e == nil || e.Reason != ReasonTarget {
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
				l.p.wg.Done() // for serve's Add
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
	c := l.p.track(in.c, l.mount, KindExpose, l.name, l.limits.give)
	c.limitIn, c.limitOut = l.limits.in, l.limits.out
	l.p.stats.served.Add(1)
	l.p.wg.Add(1) // the caller's own count keeps this above zero
	select {
	case s.conns <- c:
	case <-s.done:
		l.p.wg.Done()
		c.ResetWithCode(ReasonClosed.code())
		c.end()
	}
}

// close stops accepting. Requests under way end with their connections.
func (s *httpService) close() {
	s.once.Do(func() { close(s.done) })
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
