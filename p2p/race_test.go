package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/internal/race"
)

// raceConn is a connection that only remembers whether it was closed.
type raceConn struct {
	Connection
	name   string
	closed bool
}

func (c *raceConn) Close() error { c.closed = true; return nil }

// runner says how a dial of one endpoint goes.
type runner struct {
	takes  time.Duration
	fails  bool
	deaf   bool // it comes up although its context ended
	began  time.Duration
	ended  time.Duration
	dialed bool
	conn   *raceConn
}

func runRace(ctx context.Context, runners map[string]*runner, order ...string) (Connection, error) {
	start := time.Now()
	var endpoints []Endpoint
	for _, name := range order {
		endpoints = append(endpoints, Endpoint{Protocol: "memory", Path: name})
	}
	return dialFirst(ctx, endpoints, func(ctx context.Context, e Endpoint) (Connection, error) {
		r := runners[e.Path]
		r.dialed, r.began = true, time.Since(start)
		defer func() { r.ended = time.Since(start) }()
		timer := time.NewTimer(r.takes)
		defer timer.Stop()
		if r.deaf {
			<-timer.C
		} else {
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if r.fails {
			return nil, errors.New(e.Path + " failed")
		}
		r.conn = &raceConn{name: e.Path}
		return r.conn, nil
	})
}

func TestRaceBegins250msApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := map[string]*runner{"a": {takes: time.Hour}, "b": {takes: time.Hour}, "c": {takes: 100 * time.Millisecond}, "d": {takes: time.Hour}}
		conn, err := runRace(t.Context(), rs, "a", "b", "c", "d")
		if err != nil || conn.(*raceConn).name != "c" {
			t.Fatal(conn, err)
		}
		if rs["a"].began != 0 || rs["b"].began != race.Stagger || rs["c"].began != 2*race.Stagger || rs["d"].dialed {
			t.Errorf("began at %v, %v, %v, the last at all: %v", rs["a"].began, rs["b"].began, rs["c"].began, rs["d"].dialed)
		}
		// The losers end with the winner.
		if won := 2*race.Stagger + 100*time.Millisecond; rs["a"].ended != won || rs["b"].ended != won {
			t.Errorf("the losers ended at %v and %v, the winner at %v", rs["a"].ended, rs["b"].ended, won)
		}
	})
}

func TestRaceFirstSuccessWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := map[string]*runner{"a": {takes: 300 * time.Millisecond}, "b": {takes: 10 * time.Millisecond}}
		conn, err := runRace(t.Context(), rs, "a", "b")
		if err != nil || conn.(*raceConn).name != "b" || conn.(*raceConn).closed {
			t.Fatal(conn, err)
		}
	})
}

func TestRaceFailureStartsTheNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := map[string]*runner{"a": {takes: 20 * time.Millisecond, fails: true}, "b": {fails: true}, "c": {takes: time.Millisecond}}
		conn, err := runRace(t.Context(), rs, "a", "b", "c")
		if err != nil || conn.(*raceConn).name != "c" {
			t.Fatal(conn, err)
		}
		if rs["b"].began != 20*time.Millisecond || rs["c"].began != 20*time.Millisecond {
			t.Errorf("began at %v and %v", rs["b"].began, rs["c"].began)
		}
	})
}

// A connection that comes up after another won is closed, and the race does not
// end before that: nothing is left behind.
func TestRegressionRaceLeaksNoLateConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := map[string]*runner{"a": {takes: time.Second, deaf: true}, "b": {takes: time.Millisecond}, "c": {takes: time.Hour}}
		conn, err := runRace(t.Context(), rs, "a", "b", "c")
		if err != nil || conn.(*raceConn).name != "b" || conn.(*raceConn).closed {
			t.Fatal(conn, err)
		}
		if late := rs["a"].conn; late == nil || !late.closed {
			t.Error("the late connection is open")
		}
	}) // synctest fails when a goroutine is left
}

func TestRaceWithoutWinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := map[string]*runner{"a": {fails: true}, "b": {takes: time.Second, fails: true}}
		conn, err := runRace(t.Context(), rs, "a", "b")
		if conn != nil || err == nil || !strings.Contains(err.Error(), "a failed") || !strings.Contains(err.Error(), "b failed") {
			t.Fatal(conn, err)
		}
		if conn, err := runRace(t.Context(), rs); conn != nil || err == nil {
			t.Fatal("a race of nobody:", conn, err)
		}
	})
}

func TestRaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer stop()
		rs := map[string]*runner{"a": {takes: time.Hour}, "b": {takes: time.Hour}, "c": {}}
		start := time.Now()
		conn, err := runRace(ctx, rs, "a", "b", "c")
		if conn != nil || !errors.Is(err, context.DeadlineExceeded) || rs["c"].dialed || time.Since(start) != 300*time.Millisecond {
			t.Fatal(conn, err, rs["c"].dialed, time.Since(start))
		}
	})
}

func TestInterleave(t *testing.T) {
	v4 := func(n byte) Endpoint { return Endpoint{Protocol: "mconn", IP: []byte{80, 0, 0, n}, Port: 1} }
	v6 := func(n byte) Endpoint {
		return Endpoint{Protocol: "mconn", IP: append([]byte{0x2a, 1}, append(make([]byte, 13), n)...), Port: 1}
	}
	mapped := Endpoint{Protocol: "mconn", IP: append(append(make([]byte, 10), 0xff, 0xff), 80, 0, 0, 9), Port: 1}
	path := Endpoint{Protocol: "memory", Path: "x"}
	for name, test := range map[string]struct{ in, want []Endpoint }{
		"nothing":          {},
		"six first":        {[]Endpoint{v4(1), v6(1)}, []Endpoint{v6(1), v4(1)}},
		"in turn":          {[]Endpoint{v4(1), v4(2), v4(3), v6(1), v6(2)}, []Endpoint{v6(1), v4(1), v6(2), v4(2), v4(3)}},
		"one family":       {[]Endpoint{v4(2), v4(1)}, []Endpoint{v4(2), v4(1)}},
		"mapped is four":   {[]Endpoint{mapped, v6(1)}, []Endpoint{v6(1), mapped}},
		"without IP, last": {[]Endpoint{path, v4(1)}, []Endpoint{v4(1), path}},
	} {
		if got := interleave(test.in); !slices.EqualFunc(got, test.want, func(a, b Endpoint) bool { return a.String() == b.String() }) {
			t.Errorf("%s: %s, want %s", name, fmt.Sprint(got), fmt.Sprint(test.want))
		}
	}
}
