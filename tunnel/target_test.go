package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
)

// Who is refused is told what to do next, in one line that is true on both
// sides, and nothing about this machine that only its owner should know.
func TestRegressionRefusalsSayWhatToDoNext(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := portOf(l)
	l.Close()
	hold := service(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	expose(t, a, "closed", hold)
	expose(t, a, "down", ma.StringCast("/ip4/127.0.0.1/tcp/"+down), AllowAny())
	expose(t, a, "gone", ma.StringCast("/unix/nonexistent/socket"), AllowAny())
	expose(t, a, "unknown", ma.StringCast("/dns4/no..such/tcp/80"), AllowAny())
	expose(t, a, "full", hold, AllowAny(), func(c *ServiceConfig) { c.Limits.MaxConnections = 1 })
	b.Remember(a.id, a.addr())
	c, err := b.Open(t.Context(), a.id, "full")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for service, want := range map[string]string{
		"nosuch":  "no such service: there is no service \"nosuch\" here; see what it is called with `kith ls` on the machine that serves it",
		"closed":  fmt.Sprintf("not allowed: %s may not use \"closed\"; ask its owner to allow this peer", b.id),
		"down":    "target refused: the service's target is not running (connection refused); start it on the machine that exposes the service (`kith ls` there says where it leads)",
		"gone":    "target refused: the service's target is not running (its socket does not exist); start it on the machine that exposes the service (`kith ls` there says where it leads)",
		"unknown": "target refused: the service's target cannot be reached; `kith ls` on the machine that exposes the service says why",
		"full":    "limit reached: \"full\" serves 1 connections at once, which are in use; try again when one has ended, or raise its --max-connections where it is exposed",
	} {
		_, err := b.Open(t.Context(), a.id, service)
		if err == nil || err.Error() != want+" (said by the peer)" {
			t.Errorf("%s:\n got %v\nwant %s (said by the peer)", service, err, want)
		}
		for _, private := range []string{down, "/nonexistent", "no..such", "no such host"} {
			if err != nil && strings.Contains(err.Error(), private) {
				t.Errorf("%s: the peer learns %q: %v", service, private, err)
			}
		}
		for _, i := range a.Listeners.List() {
			if i.Protocol == service && (i.LastError == nil || i.LastError.Error() != want) {
				t.Errorf("%s: the server says %v", service, i.LastError)
			}
		}
	}
}

// A forward that is full says so in words of its own: the other side has no
// part in it.
func TestRegressionFullForwardSaysWhatToDoNext(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	expose(t, a, "echo", service(t, echo), AllowAny())
	addr := forwardTo(t, b, a, "echo", func(c *ForwardConfig) { c.MaxConnections = 1 })
	roundTrip(t, dial(t, addr), "x")
	wantRefused(t, addr)
	eventually(t, "the reason is listed", func() bool {
		e := b.Listeners.List()[0].LastError
		return e != nil && e.Error() == "limit reached: this forward of \"echo\" carries 1 connections at once, which are in use; "+
			"try again when one has ended, or end some (`kith streams`)"
	})
}

// What only the owner may know about a target that cannot be reached is told to
// the owner.
func TestRegressionOwnerLearnsWhyTheTargetCannotBeReached(t *testing.T) {
	d := newTargetDialer(ma.StringCast("/dns4/no..such/tcp/80"), newLimiter(Limits{}))
	_, e := d.dial(t.Context())
	if e == nil || strings.Contains(e.Error(), "no such host") || strings.Contains(e.told(), "no such host") {
		t.Fatalf("for the peer: %v", e)
	}
	if got, want := OwnerText(e), "target refused: the service's target cannot be reached: no..such: no such host; correct the target, or what is in its way"; got != want {
		t.Errorf("for the owner:\n got %s\nwant %s", got, want)
	}
	for _, e := range []*Error{
		{Reason: ReasonTarget, Detail: e.Detail, Remote: true, Err: errors.New("x")}, // a peer's words
		{Reason: ReasonTarget, Detail: "told in full", Err: errors.New("x")},
		{Reason: ReasonLimit, Detail: "a limit"},
	} {
		if got := OwnerText(e); got != e.Error() {
			t.Errorf("%v became %s", e, got)
		}
	}
}
