package tunnel

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

// logbook is a slog.Handler that keeps what it is told.
type logbook struct {
	mu    sync.Mutex // guards lines
	lines []map[string]string
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logbook) WithGroup(string) slog.Handler            { return l }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	line := map[string]string{"level": r.Level.String(), "msg": r.Message}
	r.Attrs(func(a slog.Attr) bool {
		line[a.Key] = a.Value.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// about returns the lines with this message.
func (l *logbook) about(msg string) (out []map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line["msg"] == msg {
			out = append(out, line)
		}
	}
	return out
}

func newLogged(t *testing.T, listen ...string) (node, *logbook) {
	t.Helper()
	h, l := newHost(t, listen...), new(logbook)
	p := NewP2P(h.ID(), h, nil, WithLogger(slog.New(l)))
	t.Cleanup(func() { p.Close() })
	return node{p, h}, l
}

// A refusal and a cut are each one line in the log of both nodes, of a level that
// is shown by default, with the service, the reason and the other peer.
func TestRefusalsAndCutsAreLogged(t *testing.T) {
	a, ofA := newLogged(t, overTCP)
	b, ofB := newLogged(t)
	expose(t, a, "closed", service(t, echo))
	expose(t, a, "echo", service(t, echo), AllowAny())

	wantLine := func(whose string, l *logbook, msg, service string, r Reason, other peer.ID) {
		t.Helper()
		eventually(t, msg+" is logged by "+whose, func() bool { return len(l.about(msg)) > 0 })
		lines := l.about(msg)
		line := lines[0]
		if len(lines) != 1 || line["level"] != "INFO" || line["service"] != service || line["reason"] != r.String() ||
			line["peer"] != other.String() || line["detail"] == "" {
			t.Errorf("%s logged %v", whose, lines)
		}
	}
	wantRefused(t, forwardTo(t, b, a, "closed"))
	wantLine("the server", ofA, "connection refused", "closed", ReasonNotAllowed, b.id)
	wantLine("the client", ofB, "connection refused", "closed", ReasonNotAllowed, a.id)

	c := dial(t, forwardTo(t, b, a, "echo"))
	roundTrip(t, c, "before")
	if !a.Streams.Reset(a.Streams.List()[0].ID) {
		t.Fatal("there is no stream")
	}
	wantReset(t, c)
	wantLine("the server", ofA, "connection cut", "echo", ReasonClosed, b.id)
	wantLine("the client", ofB, "connection cut", "echo", ReasonClosed, a.id)
	for _, l := range []*logbook{ofA, ofB} {
		if n := len(l.about("connection refused")); n != 1 {
			t.Errorf("%d refusals are logged, there was one", n)
		}
	}
}

// A connection that ends well is not news.
func TestNothingIsLoggedOfAConnectionThatEndsWell(t *testing.T) {
	a, ofA := newLogged(t, overTCP)
	b, ofB := newLogged(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	c := dial(t, forwardTo(t, b, a, "echo"))
	roundTrip(t, c, "hello")
	c.Close()
	eventually(t, "the streams end", func() bool { return a.Streams.Len() == 0 && b.Streams.Len() == 0 })
	for _, l := range []*logbook{ofA, ofB} {
		if lines := append(l.about("connection refused"), l.about("connection cut")...); len(lines) != 0 {
			t.Errorf("logged %v", lines)
		}
	}
}
