package rpc

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// What every server answers, on the framed protocol and as JSON: that it is
// there, what it is, how it is doing, and which methods the caller may use.
// Authorize is asked as for any other method.
const (
	PingMethod     protocol.ID = builtInPrefix + "ping"
	InfoMethod     protocol.ID = builtInPrefix + "info"
	StatsMethod    protocol.ID = builtInPrefix + "stats"
	ServicesMethod protocol.ID = builtInPrefix + "services"

	builtInPrefix = "/kith/rpc/"
)

// Info is the answer of InfoMethod.
type Info struct {
	Name     string        `json:"name"`
	Version  string        `json:"version,omitempty"`
	Peer     peer.ID       `json:"peer"`
	Protocol protocol.ID   `json:"protocol"`
	Uptime   time.Duration `json:"uptime_ns"`
}

// Service is one method in the answer of ServicesMethod.
type Service struct {
	Name protocol.ID `json:"name"`
	// Stream: it is opened as a stream of messages, and not on the plain wire.
	Stream bool `json:"stream,omitempty"`
	// BuiltIn: every kith node has it.
	BuiltIn bool `json:"builtin,omitempty"`
}

func (s *Server) builtIns() map[string]*method {
	methods := map[string]*method{}
	// Their answer is JSON; nil answers what was asked.
	for id, fn := range map[protocol.ID]func(*Request) any{
		PingMethod:     func(*Request) any { return nil },
		InfoMethod:     func(*Request) any { return Info{s.cfg.Name, s.cfg.Version, s.h.ID(), Protocol, time.Since(s.since)} },
		StatsMethod:    func(r *Request) any { return s.statsFor(r.Peer) },
		ServicesMethod: func(r *Request) any { return s.Services(r.Peer) },
	} {
		methods[string(id)] = &method{id: id, builtin: true, limiter: newLimiter(s.cfg.MethodLimits), handler: func(_ context.Context, r *Request) (*Response, error) {
			v := fn(r)
			if v == nil {
				return &Response{Body: r.Body}, nil
			}
			b, err := json.Marshal(v)
			return &Response{Headers: headersOf(codecJSON), Body: b}, err
		}}
	}
	return methods
}

// statsFor are the counters without the methods that a peer may not use.
func (s *Server) statsFor(p peer.ID) ServerStats {
	st := s.Stats()
	for _, m := range *s.methods.Load() {
		if s.authorize(p, m) != nil {
			delete(st.Methods, string(m.id))
		}
	}
	return st
}

// Services lists the methods that a peer may use, by name.
func (s *Server) Services(p peer.ID) []Service {
	list := []Service{}
	for _, m := range *s.methods.Load() {
		if s.authorize(p, m) == nil {
			list = append(list, Service{m.id, m.stream != nil, m.builtin})
		}
	}
	slices.SortFunc(list, func(a, b Service) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return list
}

// Info asks a peer what it is. Errors are those of Send.
func (c *Client) Info(ctx context.Context, p peer.ID) (Info, error) {
	return Call[Info](ctx, c, p, InfoMethod, []byte(nil), Idempotent())
}

// Services asks a peer which methods we may use there. Errors are those of
// Send; a peer that speaks only the plain wire has none to name and answers
// CodeUnimplemented.
func (c *Client) Services(ctx context.Context, p peer.ID) ([]Service, error) {
	return Call[[]Service](ctx, c, p, ServicesMethod, []byte(nil), Idempotent())
}

// ServerStats asks a peer how it is doing. Errors are those of Send.
func (c *Client) ServerStats(ctx context.Context, p peer.ID) (ServerStats, error) {
	return Call[ServerStats](ctx, c, p, StatsMethod, []byte(nil), Idempotent())
}
