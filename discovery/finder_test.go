package discovery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/routing"
	ma "github.com/multiformats/go-multiaddr"
)

// router is a DHT made of a function.
type router func(context.Context, peer.ID) (peer.AddrInfo, error)

func (r router) FindPeer(ctx context.Context, id peer.ID) (peer.AddrInfo, error) { return r(ctx, id) }

func says(asked *atomic.Int64, where ...string) router {
	return func(_ context.Context, id peer.ID) (peer.AddrInfo, error) {
		asked.Add(1)
		if where == nil {
			return peer.AddrInfo{}, routing.ErrNotFound
		}
		return peer.AddrInfo{ID: id, Addrs: addrs(where...)}, nil
	}
}

func texts(ps []Place) (out []string) {
	for _, p := range ps {
		out = append(out, string(p.From)+" "+p.Addr.String())
	}
	return out
}

// Where is X: a connection, then the book, then the DHT.
func TestFindOrder(t *testing.T) {
	noLeaks(t)
	h, other := newHost(t), newHost(t)
	book := newBook(t, addrbook.Options{})
	var asked atomic.Int64
	f := NewFinder(FinderConfig{Host: h, Book: book, DHT: says(&asked, "/ip4/7.7.7.7/tcp/1")})

	ps, err := f.Find(t.Context(), other.ID())
	if want := []string{"dht /ip4/7.7.7.7/tcp/1"}; err != nil || !slices.Equal(texts(ps), want) || ps[0].Verified || asked.Load() != 1 {
		t.Errorf("%v, %v", ps, err)
	}
	if book.Len() != 0 || len(h.Peerstore().Addrs(other.ID())) != 0 {
		t.Error("hearsay is remembered")
	}
	told, proven := parse(t, at("5.5.5.5", other.ID())), parse(t, at("6.6.6.6", other.ID()))
	list := addrbook.Source{Kind: addrbook.Bootstrap, Name: "list"}
	book.Learn(list, []address.NodeAddress{told, proven, {NodeID: told.NodeID, Protocol: address.MConn, Hostname: "5.5.5.5"}})
	book.Failed(told, time.Time{})
	book.Good(proven)
	ps, err = f.Find(t.Context(), other.ID())
	if want := []string{"book /ip4/6.6.6.6/tcp/4001", "book /ip4/5.5.5.5/tcp/4001"}; err != nil || !slices.Equal(texts(ps), want) || asked.Load() != 1 {
		t.Errorf("%v, %v", texts(ps), err)
	}
	if !ps[0].Verified || ps[1].Verified || ps[1].Source != list {
		t.Errorf("%+v", ps)
	}
	if ps, err = f.Search(t.Context(), other.ID()); err != nil || len(ps) != 3 || asked.Load() != 2 {
		t.Errorf("%v, %v", texts(ps), err)
	}
	if err := h.Connect(t.Context(), infoOf(other)); err != nil {
		t.Fatal(err)
	}
	ps, err = f.Find(t.Context(), other.ID())
	if err != nil || len(ps) != 3 || ps[0].From != AtConnection || !ps[0].Verified || !ps[0].Addr.Equal(other.Addrs()[0]) {
		t.Errorf("%v, %v", texts(ps), err)
	}
}

// A host that tried what the book says and asks again is told what the DHT says.
func TestRoutingAsksTheDHTWhenTheBookIsStale(t *testing.T) {
	noLeaks(t)
	h := newHost(t)
	book := newBook(t, addrbook.Options{})
	id := newID(t)
	book.Add(parse(t, at("5.5.5.5", id)), addrbook.Source{Kind: addrbook.Manual})
	var asked atomic.Int64
	f := NewFinder(FinderConfig{Host: h, Book: book, DHT: says(&asked, "/ip4/7.7.7.7/tcp/1", "/ip4/5.5.5.5/tcp/4001")})
	info, err := f.FindPeer(t.Context(), id)
	if err != nil || len(info.Addrs) != 1 || asked.Load() != 0 || info.ID != id {
		t.Errorf("first: %v, %v", info, err)
	}
	h.Peerstore().AddAddrs(id, info.Addrs, peerstore.TempAddrTTL)
	info, err = f.FindPeer(t.Context(), id)
	if err != nil || len(info.Addrs) != 2 || asked.Load() != 1 {
		t.Errorf("again: %v, %v", info, err)
	}
}

func TestFindNobody(t *testing.T) {
	noLeaks(t)
	h := newHost(t)
	var asked atomic.Int64
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		dht  routing.PeerRouting
		want error
	}{
		"no DHT":     {nil, routing.ErrNotFound},
		"not found":  {says(&asked), routing.ErrNotFound},
		"no address": {router(func(_ context.Context, id peer.ID) (peer.AddrInfo, error) { return peer.AddrInfo{ID: id}, nil }), routing.ErrNotFound},
		"another":    {router(func(context.Context, peer.ID) (peer.AddrInfo, error) { return infoOf(h), nil }), routing.ErrNotFound},
		"a fault":    {router(func(context.Context, peer.ID) (peer.AddrInfo, error) { return peer.AddrInfo{}, boom }), boom},
	} {
		f := NewFinder(FinderConfig{Host: h, Book: newBook(t, addrbook.Options{}), DHT: c.dht})
		id := newID(t)
		if ps, err := f.Find(t.Context(), id); !errors.Is(err, c.want) || ps != nil {
			t.Errorf("%s: Find: %v, %v", name, ps, err)
		}
		if _, err := f.FindPeer(t.Context(), id); !errors.Is(err, c.want) {
			t.Errorf("%s: FindPeer: %v", name, err)
		}
		if len(f.searches) != 0 || len(f.slots) != 0 {
			t.Errorf("%s: %d searches stay", name, len(f.searches))
		}
	}
}

// Those who look for the same peer share a search; it ends with the last of
// them, and no sooner.
func TestSearchesAreShared(t *testing.T) {
	noLeaks(t)
	var asked, ended atomic.Int64
	answer := make(chan struct{})
	f := NewFinder(FinderConfig{Host: newHost(t), DHT: router(func(ctx context.Context, id peer.ID) (peer.AddrInfo, error) {
		asked.Add(1)
		defer ended.Add(1)
		select {
		case <-answer:
			return peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/7.7.7.7/tcp/1")}}, nil
		case <-ctx.Done():
			return peer.AddrInfo{}, ctx.Err()
		}
	})})
	id := newID(t)
	waiters := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s := f.searches[id]; s != nil {
			return s.waiters
		}
		return 0
	}
	impatient, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := f.Find(impatient, id); gone <- err }()
	eventually(t, "the first asks", func() bool { return waiters() == 1 })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if ps, err := f.Find(t.Context(), id); err != nil || len(ps) != 1 {
				t.Errorf("%v, %v", ps, err)
			}
		})
	}
	eventually(t, "all ask", func() bool { return waiters() == 11 })
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if ended.Load() != 0 {
		t.Error("the search ended with the first who left")
	}
	close(answer)
	all.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}

	answer = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, err := f.Find(ctx, id); gone <- err }()
	eventually(t, "one asks", func() bool { return asked.Load() == 2 })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || ended.Load() != 2 {
		t.Errorf("%v, %d ended", err, ended.Load())
	}
}

// However many are looked for, 16 searches run at once.
func TestSearchesAreBounded(t *testing.T) {
	noLeaks(t)
	var now, most atomic.Int64
	answer := make(chan struct{})
	f := NewFinder(FinderConfig{Host: newHost(t), DHT: router(func(context.Context, peer.ID) (peer.AddrInfo, error) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-answer
		now.Add(-1)
		return peer.AddrInfo{}, routing.ErrNotFound
	})})
	var all sync.WaitGroup
	for range 100 {
		id := newID(t)
		all.Go(func() { f.Find(t.Context(), id) })
	}
	eventually(t, "16 search", func() bool { return now.Load() == maxSearches })
	close(answer)
	all.Wait()
	if most.Load() != maxSearches {
		t.Errorf("%d at once", most.Load())
	}
}

// A peer that comes to us while we dial it in vain is connected, but has not said
// yet where it listens. The host heard nothing new, so it took the failure for the
// end, and never saw the connection.
func TestRegressionTheyCameWhileWeDialled(t *testing.T) {
	noLeaks(t)
	h, other := newHost(t), newHost(t)
	book := newBook(t, addrbook.Options{})
	stale := ma.StringCast("/ip4/127.0.0.1/tcp/1")
	told, err := fromParts(other.ID(), stale)
	if err != nil {
		t.Fatal(err)
	}
	book.Add(told, addrbook.Source{Kind: addrbook.Manual})
	var asked atomic.Int64
	f := NewFinder(FinderConfig{Host: h, Book: book, DHT: says(&asked, stale.String())})
	if err := other.Connect(t.Context(), infoOf(h)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection stands on both sides", func() bool { return len(h.Network().ConnsToPeer(other.ID())) == 1 })
	came := h.Network().ConnsToPeer(other.ID())[0].RemoteMultiaddr()
	for _, tried := range [][]ma.Multiaddr{nil, {stale}} {
		h.Peerstore().ClearAddrs(other.ID())
		h.Peerstore().AddAddrs(other.ID(), tried, peerstore.TempAddrTTL)
		info, err := f.FindPeer(t.Context(), other.ID())
		if err != nil || len(info.Addrs) != 2 || !info.Addrs[0].Equal(stale) || !info.Addrs[1].Equal(came) {
			t.Errorf("tried %v: %v, %v", tried, info, err)
		}
	}
	if ps, _ := f.Find(t.Context(), other.ID()); len(ps) != 1 {
		t.Errorf("nobody listens there, yet it is said: %v", texts(ps))
	}
	// Nor is there need for somebody who knows the peer.
	info, err := NewFinder(FinderConfig{Host: h}).FindPeer(t.Context(), other.ID())
	if err != nil || len(info.Addrs) != 1 || !info.Addrs[0].Equal(came) || asked.Load() != 0 {
		t.Errorf("%v, %v, the DHT was asked %d times", info, err, asked.Load())
	}
}
