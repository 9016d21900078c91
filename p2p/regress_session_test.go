package p2p_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/connmgr"
	"github.com/kith-p2p/kith/identity"
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/mconn"
	"github.com/kith-p2p/kith/p2p/memory"
)

// Without a cooldown, a peer that refuses after the handshake, or is refused, was
// dialled again without a pause, as fast as handshakes go. It rests as after failed
// dials, longer each time; when it takes us, all is forgotten.
func TestRegressionRefusedAfterTheHandshakeIsRedialledAtOnce(t *testing.T) {
	for name, persistent := range map[string]bool{"persistent": true, "ordinary": false} {
		for who, theirs := range map[string]bool{"the peer refuses": true, "we do": false} {
			t.Run(name+"/"+who, func(t *testing.T) {
				inMemory(t, memory.Options{Link: memory.Link{Latency: time.Millisecond}}, func(t *testing.T, w *world) {
					var sessions, refusing atomic.Int64
					refusing.Store(1)
					filter := func(o *p2p.RouterOptions) {
						o.FilterPeerByID = func(context.Context, p2p.NodeID) error {
							sessions.Add(1)
							if refusing.Load() == 1 && theirs {
								return errors.New("not you")
							}
							return nil
						}
					}
					w.peers.Protocols = []p2p.Protocol{"mconn"} // it dials nobody
					b := w.node(filter)
					w.peers = p2p.PeerManagerOptions{MinRetryTime: time.Second, MaxRetryTime: time.Minute, DisconnectCooldownPeriod: -1}
					if persistent {
						w.peers.PersistentPeers = []p2p.NodeID{b.id}
					}
					a := w.node()
					ch := openText(t, a, 1)
					openText(t, b, 1)
					w.start(a, b)
					sub := a.pm.Subscribe()
					var watch sync.WaitGroup
					watch.Go(func() {
						for u := range sub.Updates() {
							if u.Status == p2p.PeerStatusUp && refusing.Load() == 1 && !theirs {
								ch.Report(p2p.PeerError{NodeID: u.NodeID, Err: errors.New("not you"), Fatal: true})
							}
						}
					})
					if _, err := a.pm.Add(b.at); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Minute)
					// 1 + 2 + 4 + 8 + 16 + 32 s, and then a minute each.
					if n := sessions.Load(); n < 12 || n > 20 {
						t.Errorf("%d sessions in ten minutes", n)
					}
					refusing.Store(0)
					w.within(2*time.Minute, func() bool { return up(a, b.id) && up(b, a.id) })
					time.Sleep(2 * time.Minute)
					p, _ := a.pm.Book().Peer(b.id)
					if len(p.Addresses) != 1 || p.Addresses[0].Failures != 0 || !p.Addresses[0].Verified {
						t.Errorf("%+v", p)
					}
					// A session that lived is no failure when it ends.
					before := sessions.Load()
					w.net.Reset(a.id, b.id)
					w.within(100*time.Millisecond, func() bool { return up(a, b.id) && sessions.Load() > before })
					sub.Close()
					watch.Wait()
				})
			})
		}
	}
}

// Nor is a dial a failure that we ended ourselves: a better peer came, or another
// connection to the same.
func TestSessionsThatWeEndAreNoFailedDials(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		a.pm.Add(b.at)
		b.pm.Add(a.at) // both dial, and one connection goes
		w.start(a, b)
		w.until(func() bool { return up(a, b.id) && up(b, a.id) })
		time.Sleep(time.Minute)
		for _, n := range []struct {
			*testNode
			of p2p.NodeID
		}{{a, b.id}, {b, a.id}} {
			if s := n.r.Stats().Peers[0]; s.Direction == connmgr.Outbound && n.pm.Scores()[n.of] != 0 {
				t.Errorf("score %d", n.pm.Scores()[n.of])
			}
		}
	})
}

// causes notes why peers went down, as the Router's logger is told.
type causes struct {
	slog.Handler
	got chan error
}

func noteCauses(o *p2p.RouterOptions) *causes {
	c := &causes{slog.DiscardHandler, make(chan error, 64)}
	o.Logger = slog.New(c)
	return c
}

func (c *causes) Enabled(context.Context, slog.Level) bool { return true }

func (c *causes) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "peer down" {
		r.Attrs(func(a slog.Attr) bool {
			if err, ok := a.Value.Any().(error); ok {
				select {
				case c.got <- err:
				default:
				}
			}
			return true
		})
	}
	return nil
}

// wait returns the next cause.
func (c *causes) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.got:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("no session ended")
		return nil
	}
}

// Why the Router ends a session is said to a kith peer over mconn, whose Router
// passes it on with its type; so is a close without a word of another node.
func TestRegressionReasonsOfTheEndAreLost(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*p2p.RouterOptions) // of the node that ends it
		peers  p2p.PeerManagerOptions   // of the same
		end    func(a, b *testNode)     // b ends it
		want   string
	}{
		"shutting down": {end: func(_, b *testNode) { b.r.Stop() }, want: "shutting down"},
		"banned":        {end: func(a, b *testNode) { b.pm.Ban(a.id, time.Hour, "for what only we know") }, want: "banned"},
		"a protocol error": {
			end: func(a, b *testNode) { b.pm.Errored(a.id, errors.New("chat: a message out of turn")) }, want: "chat: a message out of turn",
		},
		"evicted": {
			peers: p2p.PeerManagerOptions{MaxConnected: 1, MaxConnectedUpgrade: 1},
			end: func(_, b *testNode) { // somebody better comes
				better := testKey(99)
				b.pm.Report(better.Public().NodeID(), p2p.Behaviour{Status: p2p.PeerStatusGood, Weight: 10})
				conn := rawDial(b, better)
				conn.SendMessage(1, nil)
			},
			want: "evicted for a better peer",
		},
		"filtered": {
			change: func(o *p2p.RouterOptions) {
				o.FilterPeerByID = func(context.Context, p2p.NodeID) error { return errors.New("a secret list") }
			},
			want: "refused by a filter",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{TB: t}
			w.peers = c.peers
			b := w.node(func(o *p2p.RouterOptions) {
				if c.change != nil {
					c.change(o)
				}
			})
			w.peers = p2p.PeerManagerOptions{MinRetryTime: time.Hour}
			var heard *causes
			a := w.node(func(o *p2p.RouterOptions) { heard = noteCauses(o) })
			openText(t, a, 1)
			openText(t, b, 1)
			w.start(a, b)
			if _, err := a.pm.Add(b.at); err != nil {
				t.Fatal(err)
			}
			if c.end != nil {
				w.until(func() bool { return up(a, b.id) && up(b, a.id) })
				c.end(a, b)
			}
			err := heard.wait(t)
			bye, ok := errors.AsType[*mconn.GoodbyeError](err)
			if !ok || bye.Reason != c.want || !errors.Is(err, p2p.ErrPeerClosed) || !errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("refused by another kind of node", func(t *testing.T) {
		w := &world{TB: t}
		var heard *causes
		a := w.node(func(o *p2p.RouterOptions) { heard = noteCauses(o) })
		openText(t, a, 1)
		w.start(a)
		comet, err := mconn.New(mconn.Options{Listen: "127.0.0.1:0", CometOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer comet.Close()
		key := testKey(98)
		a.pm.Add(comet.Endpoints()[0].NodeAddress(key.Public().NodeID()))
		conn, err := comet.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Handshake(t.Context(), rawInfo(key), key); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		err = heard.wait(t)
		refused, ok := errors.AsType[*mconn.RefusedError](err)
		if !ok || !errors.Is(err, p2p.ErrPeerClosed) || refused.Peer.Moniker != "raw" {
			t.Error(err)
		}
	})
}

func rawInfo(key p2p.PrivKey) p2p.NodeInfo {
	return p2p.NodeInfo{
		NodeID: key.Public().NodeID(), Network: "test", Moniker: "raw", ListenAddr: "127.0.0.1:1", Channels: []p2p.ChannelID{1},
	}
}

// rawDial is a connection to a node over mconn, without a Router.
func rawDial(to *testNode, key p2p.PrivKey) *mconn.Connection {
	tr, err := mconn.New(mconn.Options{})
	if err != nil {
		panic(err)
	}
	es, err := to.at.Resolve(context.Background())
	if err != nil {
		panic(err)
	}
	conn, err := tr.Dial(context.Background(), es[0])
	if err != nil {
		panic(err)
	}
	if _, _, err := conn.Handshake(context.Background(), rawInfo(key), key); err != nil {
		panic(err)
	}
	return conn.(*mconn.Connection)
}

// What the engine and the handshake's checks refuse is told, too: a second
// connection, one too many (with others to try), a fault of the protocol.
func TestRefusalsAreTold(t *testing.T) {
	goodbye := func(conn *mconn.Connection) *mconn.GoodbyeError {
		t.Helper()
		defer conn.Close()
		_, _, err := conn.ReceiveMessage()
		bye, ok := errors.AsType[*mconn.GoodbyeError](err)
		if !ok {
			t.Errorf("%v", err)
			return &mconn.GoodbyeError{}
		}
		return bye
	}
	w := &world{TB: t}
	w.peers = p2p.PeerManagerOptions{MaxConnected: 2}
	b := w.node()
	openText(t, b, 1)
	w.start(b)
	friend := p2p.NodeAddress{NodeID: testKey(77).Public().NodeID(), Protocol: "mconn", Hostname: "127.0.0.9", Port: 4}
	if _, err := b.pm.Add(friend); err != nil {
		t.Fatal(err)
	}
	first := rawDial(b, testKey(50))
	defer first.Close()
	w.until(func() bool { return up(b, testKey(50).Public().NodeID()) })
	if bye := goodbye(rawDial(b, testKey(50))); bye.Reason != "you are connected already" {
		t.Errorf("%q", bye.Reason)
	}
	second := rawDial(b, testKey(51))
	w.until(func() bool { return up(b, testKey(51).Public().NodeID()) })
	if bye := goodbye(rawDial(b, testKey(52))); bye.Reason != "too many peers" || !strings.Contains(strings.Join(bye.Peers, " "), friend.String()) {
		t.Errorf("%+v", bye)
	}
	if err := second.SendMessage(0x33, []byte("nobody has this channel")); err != nil {
		t.Fatal(err)
	}
	if bye := goodbye(second); !strings.HasPrefix(bye.Reason, "you broke the protocol: message on a channel we do not have") {
		t.Errorf("%q", bye.Reason)
	}
	other := rawInfo(testKey(53))
	other.Network = "elsewhere"
	tr, _ := mconn.New(mconn.Options{})
	es, _ := b.at.Resolve(t.Context())
	conn, err := tr.Dial(t.Context(), es[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Handshake(t.Context(), other, testKey(53)); err != nil {
		t.Fatal(err)
	}
	if bye := goodbye(conn.(*mconn.Connection)); !strings.Contains(bye.Reason, `the network differs: ours is "test", theirs "elsewhere"`) {
		t.Errorf("%q", bye.Reason)
	}
}

// The key of a peer is its libp2p ID: from the first session on, a libp2p address
// needs no more than the host. And what a peer sees us at comes over mconn.
func TestRegressionPeerIDAndObservedAddressAreNotKept(t *testing.T) {
	overBoth(t, func(t *testing.T, w *world) {
		a, b := w.node(), w.node()
		openText(t, a, 1)
		openText(t, b, 1)
		w.start(a, b)
		bare, err := p2p.ParseNodeAddress("libp2p://" + string(b.id) + "@192.0.2.1:4001")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.pm.Add(bare); err == nil {
			t.Fatal("nothing is known of the peer, and its address is taken")
		}
		w.connect(a, b)
		for _, at := range []struct{ n, of *testNode }{{a, b}, {b, a}} {
			p, _ := at.n.pm.Book().Peer(at.of.id)
			if id, err := identity.NodeIDFromPeerID(p.PeerID); err != nil || id != at.of.id {
				t.Errorf("%q, %v", p.PeerID, err)
			}
			if w.net == nil {
				if seen := at.n.r.Stats().Peers[0].Info.Extensions.Observed; seen != "127.0.0.1" {
					t.Errorf("seen at %q", seen)
				}
			}
		}
		if added, err := a.pm.Add(bare); !added || err != nil {
			t.Error(added, err)
		}
	})
}

// staleTransport is a memory transport whose connections are stale when nothing
// came for a minute.
type staleTransport struct{ *memory.Transport }

type staleConn struct {
	*memory.Connection
	heard atomic.Int64
}

func (t staleTransport) Accept() (p2p.Connection, error) {
	c, err := t.Transport.Accept()
	if err != nil {
		return nil, err
	}
	s := &staleConn{Connection: c.(*memory.Connection)}
	s.heard.Store(time.Now().UnixNano())
	return s, nil
}

func (c *staleConn) ReceiveMessage() (p2p.ChannelID, []byte, error) {
	id, m, err := c.Connection.ReceiveMessage()
	if err == nil {
		c.heard.Store(time.Now().UnixNano())
	}
	return id, m, err
}

func (c *staleConn) Stale() bool { return time.Since(time.Unix(0, c.heard.Load())) > time.Minute }

// A peer that restarted was kept out by its old session, half open, until a ping
// timed out. Who proves to be the same peer takes the place of a session that has
// fallen silent, but of no other: there is no way to make sessions churn.
func TestRegressionHalfOpenSessionKeepsTheRestartedPeerOut(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		b := w.node(func(o *p2p.RouterOptions) {
			o.Transports = []p2p.Transport{staleTransport{o.Transports[0].(*memory.Transport)}}
		})
		ch := openText(t, b, 1)
		w.start(b)
		key := testKey(60)
		n := 0
		dial := func() p2p.Connection {
			t.Helper()
			n++
			tr, err := w.net.Listen(testKey(100 + n).Public().NodeID())
			if err != nil {
				t.Fatal(err)
			}
			conn, err := tr.Dial(t.Context(), p2p.Endpoint{Protocol: memory.Protocol, Path: string(b.id)})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.Handshake(t.Context(), rawInfo(key), key); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return conn
		}
		ended := func(c p2p.Connection) bool { return c.SendMessage(1, []byte{10, 1, 'x'}) != nil }
		old := dial()
		if again := dial(); !ended(again) || ended(old) {
			t.Fatal("a session that lives made room")
		}
		next(t, ch)
		time.Sleep(time.Minute + time.Second)
		fresh := dial()
		if ended(fresh) || !ended(old) {
			t.Fatal("the restarted peer is kept out")
		}
		next(t, ch)
		for range 10 {
			if more := dial(); !ended(more) {
				t.Fatal("the new session made room, too")
			}
		}
		if s := b.r.Stats(); len(s.Peers) != 1 || ended(fresh) {
			t.Errorf("%+v", s.Peers)
		}
		// What an impostor does not prove changes nothing.
		time.Sleep(time.Minute + time.Second)
		tr, _ := w.net.Listen(testKey(99).Public().NodeID())
		conn, err := tr.Dial(t.Context(), p2p.Endpoint{Protocol: memory.Protocol, Path: string(b.id)})
		if err != nil {
			t.Fatal(err)
		}
		claim := rawInfo(key)
		if _, _, err := conn.Handshake(t.Context(), claim, testKey(99)); err == nil {
			synctest.Wait()
			if !ended(conn) {
				t.Error("an impostor is in")
			}
		}
		if ended(fresh) {
			t.Error("an impostor ended the session")
		}
	})
}

// A feeler looked like any other peer to whom it came to: in a full node it drove
// out a connection that worked, for a test of a moment.
func TestRegressionFeelerTakesAPlace(t *testing.T) {
	inMemory(t, memory.Options{}, func(t *testing.T, w *world) {
		b := w.node(func(o *p2p.RouterOptions) {
			o.Limits = &connmgr.Limits{Inbound: connmgr.Share{Total: 8}, Evict: true}
		})
		openText(t, b, 1)
		w.start(b)
		dial := func(n int, feeler bool) {
			t.Helper()
			key := testKey(100 + n)
			tr, err := w.net.Listen(key.Public().NodeID())
			if err != nil {
				t.Fatal(err)
			}
			conn, err := tr.Dial(t.Context(), p2p.Endpoint{Protocol: memory.Protocol, Path: string(b.id)})
			if err != nil {
				t.Fatal(err)
			}
			info := rawInfo(key)
			info.Extensions = p2p.Extensions{Kith: true, Feeler: feeler}
			if _, _, err := conn.Handshake(t.Context(), info, key); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		there := func() (n int) {
			for i := range 8 {
				if up(b, testKey(100+i).Public().NodeID()) {
					n++
				}
			}
			return n
		}
		for i := range 8 {
			dial(i, false)
		}
		time.Sleep(time.Hour) // none is new any more
		changes := b.pm.Subscribe()
		for i := range 20 {
			dial(20+i, true)
			time.Sleep(time.Minute)
		}
		if n := there(); n != 8 || len(changes.Updates()) != 0 {
			t.Errorf("%d of 8 peers stayed, %d changes", n, len(changes.Updates()))
		}
		dial(50, false)
		if n := there(); n != 7 {
			t.Errorf("of 8 peers %d stayed when a real newcomer came: this test shows nothing", n)
		}
	})
}

// A node whose places were all taken turned newcomers away without a word: the
// PeerManager said why and named others, the gate before it did not. And one that
// exchanges no addresses named them all the same.
func TestRegressionGateNamesNobody(t *testing.T) {
	for name, quiet := range map[string]bool{"named": false, "NoReferrals": true} {
		t.Run(name, func(t *testing.T) {
			w := &world{TB: t}
			b := w.node(func(o *p2p.RouterOptions) {
				o.Limits, o.NoReferrals = &connmgr.Limits{Inbound: connmgr.Share{Total: 1}, Evict: true}, quiet
			})
			openText(t, b, 1)
			w.start(b)
			friend := p2p.NodeAddress{NodeID: testKey(77).Public().NodeID(), Protocol: "mconn", Hostname: "127.0.0.9", Port: 4}
			if _, err := b.pm.Add(friend); err != nil {
				t.Fatal(err)
			}
			first := rawDial(b, testKey(50))
			defer first.Close()
			w.until(func() bool { return up(b, testKey(50).Public().NodeID()) })
			second := rawDial(b, testKey(51))
			defer second.Close()
			_, _, err := second.ReceiveMessage()
			bye, ok := errors.AsType[*mconn.GoodbyeError](err)
			if !ok || bye.Reason != "too many peers" || slices.Contains(bye.Peers, friend.String()) == quiet || len(bye.Peers) > 0 == quiet {
				t.Errorf("%v", err)
			}
		})
	}
}
