package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/internal/race"
	ma "github.com/multiformats/go-multiaddr"
)

// Dialling names with several IPs, in virtual time. A place answers after its delay, with a connection or an error.
func TestHappyEyeballs(t *testing.T) {
	const never = 24 * time.Hour
	type place struct {
		after time.Duration
		err   error
	}
	for name, c := range map[string]struct {
		ips    []string
		places map[string]place // those not named never answer
		dials  string           // "ip@milliseconds", in order
		want   string           // the IP, or "" for failure
		at     time.Duration
	}{
		"the first answers":   {[]string{"2001:db8::1", "1.1.1.1"}, map[string]place{"2001:db8::1": {after: 200 * time.Millisecond}}, "2001:db8::1@0", "2001:db8::1", 200 * time.Millisecond},
		"families take turns": {[]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "1.1.1.1", "1.1.1.2"}, nil, "2001:db8::1@0 1.1.1.1@250 2001:db8::2@500 1.1.1.2@750 2001:db8::3@1000", "", DefaultTimeout},
		"IPv4 in front":       {[]string{"1.1.1.1", "1.1.1.2", "2001:db8::1"}, map[string]place{"1.1.1.2": {after: time.Second}}, "1.1.1.1@0 2001:db8::1@250 1.1.1.2@500", "1.1.1.2", 1500 * time.Millisecond},
		"the second overtakes": {[]string{"2001:db8::1", "1.1.1.1"},
			map[string]place{"2001:db8::1": {after: never}, "1.1.1.1": {after: 10 * time.Millisecond}}, "2001:db8::1@0 1.1.1.1@250", "1.1.1.1", 260 * time.Millisecond},
		"a failure brings the next on": {[]string{"2001:db8::1", "1.1.1.1"},
			map[string]place{"2001:db8::1": {20 * time.Millisecond, errDown}, "1.1.1.1": {after: 10 * time.Millisecond}}, "2001:db8::1@0 1.1.1.1@20", "1.1.1.1", 30 * time.Millisecond},
		"all fail": {[]string{"2001:db8::1", "1.1.1.1"},
			map[string]place{"2001:db8::1": {0, errDown}, "1.1.1.1": {time.Second, errDown}}, "2001:db8::1@0 1.1.1.1@0", "", time.Second},
		"duplicates count once": {[]string{"1.1.1.1", "::ffff:1.1.1.1", "1.1.1.1"}, map[string]place{"1.1.1.1": {0, errDown}}, "1.1.1.1@0", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var dials []string
				open := 0
				start := time.Now()
				tr := New(Options{Resolver: resolvesTo(c.ips...)})
				tr.dialIP = func(ctx context.Context, _, addr string) (net.Conn, error) {
					host, _, _ := net.SplitHostPort(addr)
					mu.Lock()
					dials = append(dials, fmt.Sprintf("%s@%d", host, time.Since(start).Milliseconds()))
					mu.Unlock()
					p, ok := c.places[host]
					if !ok {
						p.after = never
					}
					select {
					case <-time.After(p.after):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if p.err != nil {
						return nil, p.err
					}
					mu.Lock()
					open++
					mu.Unlock()
					return &named{newWatchedConn(""), host}, nil
				}
				conn, err := tr.Dial(t.Context(), ma.StringCast("/dns/x/tcp/80"), false)
				if at := time.Since(start); at != c.at {
					t.Errorf("after %v, want %v", at, c.at)
				}
				synctest.Wait() // at the timeout Dial does not wait for its attempts
				if got := strings.Join(dials, " "); got != c.dials {
					t.Errorf("dials %q, want %q", got, c.dials)
				}
				if c.want == "" {
					if err == nil || c.at < DefaultTimeout && !errors.Is(err, errDown) {
						t.Errorf("%v, %v", conn, err)
					}
					if name == "all fail" && strings.Count(err.Error(), errDown.Error()) != 2 {
						t.Errorf("%v does not say both", err)
					}
					return
				}
				if err != nil || conn.(*plainConn).Conn.(*named).host != c.want {
					t.Fatalf("%v, %v", conn, err)
				}
				conn.Close()
			})
		})
	}
}

type named struct {
	net.Conn
	host string
}

// Two that connect at the same moment: one is kept, the other closed.
func TestRegressionLoserIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var made []*watchedConn
		tr := New(Options{Resolver: resolvesTo("1.1.1.1", "1.1.1.2", "1.1.1.3")})
		tr.dialIP = func(context.Context, string, string) (net.Conn, error) {
			c := newWatchedConn("")
			mu.Lock()
			made = append(made, c)
			n := len(made)
			mu.Unlock()
			time.Sleep(time.Second - time.Duration(n-1)*race.Stagger) // deaf: all are ready at 1 s
			return c, nil
		}
		conn, err := tr.Dial(t.Context(), ma.StringCast("/dns/x/tcp/80"), false)
		if err != nil {
			t.Fatal(err)
		}
		kept := conn.(*plainConn).Conn
		for _, c := range made {
			select {
			case <-c.closed:
				if kept == net.Conn(c) {
					t.Error("the winner was closed")
				}
			default:
				if kept != net.Conn(c) {
					t.Error("a loser was left open")
				}
			}
		}
		if len(made) != 3 {
			t.Errorf("%d dials", len(made))
		}
		conn.Close()
	})
}

// Whoever runs a domain must not decide how many dials we make.
func TestAtMost16IPs(t *testing.T) {
	var ips []string
	for i := range 200 {
		ips = append(ips, fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("2001:db8::%d", i))
	}
	var mu sync.Mutex
	var dialled []string
	tr := New(Options{Resolver: resolvesTo(ips...)})
	tr.dialIP = func(_ context.Context, _, addr string) (net.Conn, error) {
		mu.Lock()
		dialled = append(dialled, addr)
		mu.Unlock()
		return nil, errDown
	}
	if _, err := tr.Dial(t.Context(), ma.StringCast("/dns/x/tcp/80"), false); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	slices.Sort(dialled)
	if n := len(slices.Compact(dialled)); n != maxIPs || n != len(dialled) {
		t.Fatalf("%d dials, %d different", len(dialled), n)
	}
}
