package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/internal/pb/controlv1/controlv1connect"
)

const (
	// maxRequest bounds one request message in bytes; the largest honest one is
	// a Call with as much data as a peer takes by default, in JSON's base64.
	maxRequest = (32<<20)/3*4 + 64<<10
	// maxHeader bounds the header of a request in bytes.
	maxHeader = 64 << 10
	// headerTimeout bounds how long a client may take to send a header.
	headerTimeout = 5 * time.Second
	// drainTime is what answers under way get to reach their clients once the
	// node has closed.
	drainTime = 300 * time.Millisecond
)

// server serves the control API of one node. Its fields do not change after
// newServer; the channels are closed by stop, once.
type server struct {
	node *kith.Node
	log  *slog.Logger
	http *http.Server

	// calls is the parent of every call's context.
	calls    context.Context
	endCalls context.CancelFunc
	// askStop asks the owner to end the node.
	askStop context.CancelFunc
	// closed is closed when the node has closed.
	closed chan struct{}
}

// newServer builds the API of node; askStop is called for a Shutdown call and
// must not block.
func newServer(node *kith.Node, askStop context.CancelFunc, log *slog.Logger) *server {
	s := &server{node: node, log: log, askStop: askStop, closed: make(chan struct{})}
	s.calls, s.endCalls = context.WithCancel(context.Background())

	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCodec(strictJSON{"json"}),
		connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, v any) error {
			log.Error("control call panicked", "procedure", spec.Procedure, "panic", v)
			return connect.NewError(connect.CodeInternal, fmt.Errorf("the node failed on this call: %v; please report it with the node's log", v))
		}),
	}
	mux := http.NewServeMux()
	mux.Handle(controlv1connect.NewControlServiceHandler(s, options...))
	reflector := grpcreflect.NewStaticReflector(controlv1connect.ControlServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options...))

	s.http = &http.Server{
		Handler:           refuseBrowsers(mux),
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return s.calls },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// refuseBrowsers answers 403 to requests that a web page caused.
func refuseBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Header["Origin"]; ok {
			http.Error(w, "the control API does not serve web pages", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// stop ends the server: no new calls, streaming calls end, closeNode runs, the
// answers still under way get drainTime. It takes closeNode's time and at most
// drainTime more.
func (s *server) stop(ln net.Listener, closeNode func()) {
	ln.Close() // before the home's lock is given back: closing removes the socket's file
	s.endCalls()
	closeNode()
	close(s.closed)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
}
