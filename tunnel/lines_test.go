package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// tally is a slog.Handler that adds up what it is told of.
type tally struct {
	mu    sync.Mutex // guards the fields below
	lines int
	total map[string]int // refusals that were said or counted, by peer; "" is others
}

func (l *tally) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *tally) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *tally) WithGroup(string) slog.Handler                    { return l }

func (l *tally) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total == nil {
		l.total = map[string]int{}
	}
	l.lines++
	var who string
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "peer":
			who = a.Value.String()
			l.total[who]++
		case "more":
			l.total[who] += int(a.Value.Int64())
		case "others":
			l.total[""] += int(a.Value.Int64())
		}
		return true
	})
	return nil
}

func (l *tally) of(p peer.ID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total[p.String()]
}

func (l *tally) said() (lines, refusals int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.total {
		refusals += n
	}
	return l.lines, refusals
}

func newTallied(t *testing.T, listen ...string) (node, *tally) {
	t.Helper()
	h, l := newHost(t, listen...), new(tally)
	p := NewP2P(h.ID(), h, nil, WithLogger(slog.New(l)))
	t.Cleanup(func() { p.Close() })
	return node{p, h}, l
}

// Two hundred connections to a target that is down were 21 lines in the log of
// each side, and not a word of the others.
func TestRegressionEveryRefusalReachesTheLog(t *testing.T) {
	a, ofA := newTallied(t, overTCP)
	b, ofB := newTallied(t)
	expose(t, a, "down", ma.StringCast("/unix/nonexistent/socket"), AllowAny())
	addr := forwardTo(t, b, a, "down")
	const n = 200
	for range n {
		wantRefused(t, addr)
	}
	for _, p := range []node{a, b} {
		eventually(t, "all are counted", func() bool { return p.Stats().Refused[ReasonTarget] == n })
		p.P2P.Close()
	}
	for whose, l := range map[string]*tally{"server": ofA, "client": ofB} {
		if lines, refusals := l.said(); refusals != n {
			t.Errorf("the log of the %s has %d lines on %d refusals, there were %d", whose, lines, refusals, n)
		}
	}
}

// The log said so much a second and no more, whoever caused it: a stranger had
// only to ask for what there is not.
func TestRegressionAStrangersFloodHidesNoFriendsRefusal(t *testing.T) {
	a, log := newTallied(t, overTCP)
	friend, stranger := newNode(t), newNode(t)
	expose(t, a, "down", ma.StringCast("/unix/nonexistent/socket"), AllowPeers(friend.id))
	for _, n := range []node{friend, stranger} {
		n.Remember(a.id, a.addr())
	}
	for range 100 {
		if c, err := stranger.Open(t.Context(), a.id, "nosuch"); err == nil {
			c.Close()
			t.Fatal("served a stranger")
		}
	}
	if c, err := friend.Open(t.Context(), a.id, "down"); err == nil {
		c.Close()
		t.Fatal("the target is up")
	}
	if log.of(friend.id) != 1 { // said before the friend could know it
		t.Error("the friend's refusal is not in the log")
	}
	a.P2P.Close()
	if log.of(stranger.id) != 100 {
		t.Errorf("%d of the stranger's 100 refusals are in the log", log.of(stranger.id))
	}
}

func (l *lines) kept() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.counts)
}

func TestLines(t *testing.T) {
	refusal := func(p string) line { return line{"s", peer.ID(p), refuse(ReasonNoService, "none")} }
	for name, test := range map[string]func(*testing.T, *lines, *tally){
		"the rest of a flood is counted when it ends": func(t *testing.T, l *lines, log *tally) {
			for range 100 {
				l.say("refused", true, refusal("a"))
			}
			if lines, refusals := log.said(); lines != lineBurst || refusals != lineBurst {
				t.Errorf("at once %d lines on %d refusals", lines, refusals)
			}
			time.Sleep(linePeriod)
			synctest.Wait()
			if lines, refusals := log.said(); lines != lineBurst+1 || refusals != 100 {
				t.Errorf("then %d lines on %d refusals", lines, refusals)
			}
		},
		"or with the next line": func(t *testing.T, l *lines, log *tally) {
			for range 100 {
				l.say("refused", true, refusal("a"))
			}
			time.Sleep(linePeriod)
			synctest.Wait()
			for range lineRefill + 5 {
				l.say("refused", true, refusal("a"))
			}
			if lines, refusals := log.said(); lines != lineBurst+1+lineRefill || refusals != 100+lineRefill {
				t.Errorf("%d lines on %d refusals", lines, refusals)
			}
			l.mu.Lock()
			l.counts[lineKey{"refused", "a", ReasonNoService}].spent = 0
			l.mu.Unlock()
			l.say("refused", true, refusal("a"))
			if lines, refusals := log.said(); lines != lineBurst+2+lineRefill || refusals != 100+lineRefill+6 {
				t.Errorf("%d lines on %d refusals", lines, refusals)
			}
		},
		"reasons are counted apart": func(t *testing.T, l *lines, log *tally) {
			for range 100 {
				l.say("refused", true, refusal("a"))
			}
			before, _ := log.said()
			l.say("refused", true, line{"s", "a", refuse(ReasonLimit, "full")})
			l.say("cut", true, refusal("a"))
			if lines, _ := log.said(); lines != before+2 {
				t.Errorf("%d more lines, want 2", lines-before)
			}
		},
		"many strangers get few lines and little room": func(t *testing.T, l *lines, log *tally) {
			const n = 10_000
			for i := range n {
				l.say("refused", false, refusal(fmt.Sprint(i)))
			}
			l.say("refused", true, refusal("friend"))
			if lines, _ := log.said(); lines > strangerBurst+1 || log.of("friend") != 1 {
				t.Errorf("%d lines at once, %d of them the friend's", lines, log.of("friend"))
			}
			if n := l.kept(); n > maxStrangerCounts+2 {
				t.Errorf("%d counts are kept", n)
			}
			time.Sleep(linePeriod)
			synctest.Wait()
			if lines, refusals := log.said(); refusals != n+1 || lines > strangerBurst+1+maxStrangerCounts+1 {
				t.Errorf("%d lines on %d refusals", lines, refusals)
			}
		},
		"many friends too": func(t *testing.T, l *lines, log *tally) {
			for i := range 10 * maxFriendCounts {
				l.say("refused", true, refusal(fmt.Sprint(i)))
			}
			if n := l.kept(); n > maxFriendCounts+1 {
				t.Errorf("%d counts are kept", n)
			}
			l.close()
			if _, refusals := log.said(); refusals != 10*maxFriendCounts {
				t.Errorf("%d refusals were said", refusals)
			}
		},
		"a peer cannot make up reasons": func(t *testing.T, l *lines, log *tally) {
			for i := range 1000 {
				l.say("refused", true, line{"s", "a", refuse(Reason(i), "")})
			}
			if n := l.kept(); n > reasons+1 {
				t.Errorf("%d counts are kept", n)
			}
		},
		"closing says the rest": func(t *testing.T, l *lines, log *tally) {
			for range 100 {
				l.say("refused", true, refusal("a"))
			}
			l.close()
			if lines, refusals := log.said(); lines != lineBurst+1 || refusals != 100 {
				t.Errorf("%d lines on %d refusals", lines, refusals)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(tally)
				l := &lines{log: slog.New(log)}
				test(t, l, log)
				l.mu.Lock()
				closed := l.closed
				l.mu.Unlock()
				if !closed {
					time.Sleep(100 * linePeriod) // in which nothing happens
					synctest.Wait()
					l.mu.Lock()
					defer l.close()
					defer l.mu.Unlock()
					if l.timer != nil || len(l.counts) != 0 || l.friends != 0 || l.strangers != 0 || l.spent != 0 {
						t.Errorf("left behind: %d counts, %d friends, %d strangers, %d spent", len(l.counts), l.friends, l.strangers, l.spent)
					}
				}
			})
		})
	}
}

// Lines from many goroutines at once, while it is closed: none is lost.
func TestLinesConcurrently(t *testing.T) {
	log := new(tally)
	l := &lines{log: slog.New(log)}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				l.say("refused", i%2 == 0, line{"s", peer.ID(fmt.Sprint(g, i%50)), refuse(ReasonLimit, "full")})
			}
		})
	}
	wg.Wait()
	l.close()
	if _, refusals := log.said(); refusals != 8*500 {
		t.Errorf("%d refusals are in the log, there were %d", refusals, 8*500)
	}
}

// A peer that was refused before the owner named it stayed a stranger for as long as
// it came back every ten seconds.
func TestRegressionNamedLaterStaysAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(tally)
		l := &lines{log: slog.New(log)}
		defer l.close()
		from := func(p string) line { return line{"s", peer.ID(p), refuse(ReasonNotAllowed, "none")} }
		l.say("refused", false, from("friend")) // not named yet
		for i := range 20 {
			for j := range 100 {
				l.say("refused", false, from(fmt.Sprint("stranger ", i, j%10)))
			}
			before := log.of("friend")
			l.say("refused", true, from("friend"))
			if log.of("friend") == before {
				t.Errorf("round %d: the named peer's line is kept out", i)
			}
			time.Sleep(linePeriod / 2)
			synctest.Wait()
		}
		if l.friends != 1 || l.strangers < 0 || l.strangers > maxStrangerCounts {
			t.Errorf("%d friends, %d strangers", l.friends, l.strangers)
		}
	})
}
