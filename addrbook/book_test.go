package addrbook

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// shaky is a store that can be told to fail or to block, and that knows what
// it was asked.
type shaky struct {
	*MemoryStore
	mu      sync.Mutex
	fail    error
	gate    chan struct{} // Save waits for a token from it, if it is not nil
	entered chan struct{} // told of each Save that waits
	saves   []time.Time
	rows    []int
}

func newShaky() *shaky { return &shaky{MemoryStore: NewMemoryStore()} }

func (s *shaky) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// log is the times of the saves, and how many rows each had.
func (s *shaky) log() ([]time.Time, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.saves), slices.Clone(s.rows)
}

func (s *shaky) Save(cs []Change) error {
	if s.gate != nil {
		s.entered <- struct{}{}
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves, s.rows = append(s.saves, time.Now()), append(s.rows, len(cs))
	if s.fail != nil {
		return s.fail
	}
	return s.MemoryStore.Save(cs)
}

func TestChangesAreSavedBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := newShaky()
		b := open(t, s, Options{Self: id(9999)})
		synctest.Wait()
		if saves, _ := s.log(); len(saves) != 0 {
			t.Fatal("saved at once")
		}
		for n := range 1000 {
			mustAdd(t, b, at(n, global(n<<16).String()), pex(n, global(n<<16|1).String()))
			time.Sleep(4 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		saves, rows := s.log()
		if len(saves) != 1 || saves[0].Sub(start) != 5*time.Second || rows[0] < 1000 {
			t.Fatalf("%v, %v", saves, rows)
		}
		time.Sleep(time.Hour)
		if saves, _ = s.log(); len(saves) != 1 {
			t.Fatal("saved without a change")
		}
		b.Adjust(id(1), 5)
		if u := b.Stats().Unsaved; u != 1 {
			t.Fatalf("%d unsaved", u)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if saves, rows = s.log(); len(saves) != 2 || rows[1] != 1 {
			t.Fatalf("%v, %v", saves, rows)
		}
		again := open(t, s, Options{Self: id(9999)})
		if again.Len() != 1000 || again.Score(id(1)) != 5 {
			t.Fatal(again.Stats())
		}
		st := b.Stats()
		if st.Save.Saves != 2 || st.Save.Err != nil || st.Unsaved != 0 {
			t.Fatalf("%+v", st.Save)
		}
	})
}

// A ban is on its way to the disk when Ban returns, whatever else waits.
func TestBansReturnWhenSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaky()
		b := open(t, s, Options{})
		start := time.Now()
		if err := b.Ban(id(1), time.Hour, "spam"); err != nil {
			t.Fatal(err)
		}
		if err := b.BanPrefix(netip.MustParsePrefix("20.3.9.9/16"), time.Hour, "flood"); err != nil {
			t.Fatal(err)
		}
		if saves, _ := s.log(); time.Since(start) != 0 || len(saves) != 2 {
			t.Fatalf("after %v, %d saves", time.Since(start), len(saves))
		}
		other := open(t, s.MemoryStore, Options{})
		if ban, ok := other.Banned(id(1)); !ok || ban.Reason != "spam" || !ban.Until.Equal(start.Add(time.Hour)) {
			t.Fatalf("%v %v", ban, ok)
		}
		if ban, ok := other.BannedIP(netip.MustParseAddr("::ffff:20.3.1.1")); !ok || ban.Prefix.String() != "20.3.0.0/16" {
			t.Fatalf("%v %v", ban, ok)
		}
		other.Close()
		if err := errors.Join(b.Unban(id(1)), b.UnbanPrefix(netip.MustParsePrefix("20.3.0.0/16"))); err != nil {
			t.Fatal(err)
		}
		other = open(t, s.MemoryStore, Options{})
		if n := len(other.Bans()); n != 0 {
			t.Fatalf("%d bans", n)
		}
	})
}

// No store call under a lock: while a save hangs, the book goes on.
func TestBookGoesOnWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaky()
		s.gate, s.entered = make(chan struct{}), make(chan struct{}, 9)
		b := open(t, s, Options{})
		mustAdd(t, b, at(1, "20.1.0.1"), manual)
		flushed := make(chan error, 9)
		go func() { flushed <- b.Flush(context.Background()) }()
		<-s.entered
		mustAdd(t, b, at(2, "20.2.0.1"), manual)
		b.SetBan(id(3), 0, "")
		if _, ok := b.Pick(Any); !ok || b.Len() != 2 {
			t.Fatal("the book waits for the store")
		}
		if _, banned := b.Banned(id(3)); !banned {
			t.Fatal("a ban waits for the store")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := b.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		go func() { flushed <- b.Flush(context.Background()) }() // asked while a save runs: for the next
		synctest.Wait()
		s.gate <- struct{}{}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		<-s.entered
		if saves, _ := s.log(); len(saves) != 1 {
			t.Fatal("the second flush was answered by the first save")
		}
		s.gate <- struct{}{}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		close(s.gate)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// An error of the store is reported, tried again, and loses nothing.
func TestFailedSavesAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		var log strings.Builder
		s := newShaky()
		s.set(full)
		b := open(t, s, Options{Self: id(9999), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		mustAdd(t, b, at(1, "20.1.0.1"), manual)
		b.SetAnchors([]address.NodeAddress{at(1, "20.1.0.1")})
		if err := b.Ban(id(3), 0, "spam"); !errors.Is(err, full) || !strings.Contains(err.Error(), "the ban holds") {
			t.Fatal(err)
		}
		if err := b.BanPrefix(netip.MustParsePrefix("20.3.0.0/16"), 0, ""); !errors.Is(err, full) {
			t.Fatal(err)
		}
		if _, ok := b.Banned(id(3)); !ok {
			t.Fatal("a ban that could not be saved does not hold")
		}
		time.Sleep(10 * time.Minute)
		saves, _ := s.log()
		if n := len(saves); n < 8 || n > 40 {
			t.Fatalf("%d attempts in ten minutes", n)
		}
		if st := b.Stats(); st.Save.Failed != uint64(len(saves)) || st.Save.Err != full || st.Unsaved == 0 {
			t.Fatalf("%+v", st.Save)
		}
		b.Remove(at(1, "20.1.0.1"))
		mustAdd(t, b, at(2, "20.2.0.1"), manual)
		s.set(nil)
		time.Sleep(2 * time.Minute)
		if st := b.Stats(); st.Save.Err != nil || st.Unsaved != 0 {
			t.Fatalf("%+v", st)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open(t, s, Options{Self: id(9999)})
		if _, ok := b.Banned(id(3)); !ok || b.Len() != 1 || len(b.Bans()) != 2 || len(b.Anchors()) != 1 || len(b.Notices()) != 0 {
			t.Fatalf("%+v %q", b.Stats(), b.Notices())
		}
		s.set(full)
		b.Adjust(id(1), 1)
		if err := b.Close(); !errors.Is(err, full) {
			t.Fatal("the last save failed and Close says nothing")
		}
		if !strings.Contains(log.String(), "no space left") {
			t.Fatalf("log: %s", &log)
		}
	})
}

// Rows that cannot be read are set aside, also when the first save fails.
func TestUnreadableRowsAreSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShaky()
		s.MemoryStore.rows = rows(t)
		s.MemoryStore.rows["amconn://nonsense"] = []byte{1, 2, 3}
		s.MemoryStore.rows[""] = []byte("no key")
		s.set(errors.New("not now"))
		b := open(t, s, Options{Self: id(7)})
		if n := b.Notices(); len(n) != 1 || !strings.Contains(n[0], "2 rows could not be read and are set aside") {
			t.Fatalf("%q", n)
		}
		time.Sleep(6 * time.Second)
		s.set(nil)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if v := s.MemoryStore.rows["xamconn://nonsense"]; len(v) != 3 || s.MemoryStore.rows["amconn://nonsense"] != nil || s.MemoryStore.rows["x"] == nil {
			t.Fatalf("%q", s.MemoryStore.rows)
		}
		if b = open(t, s, Options{Self: id(7)}); len(b.Notices()) != 0 || b.Len() != 3 {
			t.Fatalf("%q", b.Notices())
		}
	})
}

func TestAfterClose(t *testing.T) {
	checkGoroutines(t)
	b, err := Open(NewMemoryStore(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := b.Flush(t.Context()); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := b.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := b.Ban(id(1), 0, ""); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	mustAdd(t, b, at(1, "20.1.0.1"), manual)
}

func TestOpenRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"NewBuckets": {NewBuckets: -1}, "TriedBuckets": {TriedBuckets: 1 << 17}, "BucketSize": {BucketSize: 65}, "AddressesPerPeer": {AddressesPerPeer: -1},
		"MaxRecords": {MaxRecords: -1}, "MaxPeers": {MaxPeers: -1}, "LearnBurst": {LearnBurst: -1}, "MaxRetry": {MaxRetry: -1}, "Self": {Self: "me"},
	} {
		if _, err := Open(NewMemoryStore(), o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(brokenStore{}, Options{}); err == nil || !strings.Contains(err.Error(), "cannot read the store: broken") {
		t.Error(err)
	}
}

type brokenStore struct{}

func (brokenStore) Load(func(string, []byte)) ([]string, error) { return nil, errors.New("broken") }
func (brokenStore) Save([]Change) error                         { return errors.New("broken") }

// Wake is called without a lock: from it, the book can be used.
func TestWakeRunsOutsideTheLock(t *testing.T) {
	var b *Book
	woke := 0
	o := Options{Wake: func() {
		woke++
		b.Pick(Any)
	}}
	b = open(t, NewMemoryStore(), o)
	mustAdd(t, b, at(1, "20.1.0.1"), manual)
	b.Hold(id(1))
	b.Release(id(1), time.Time{})
	b.Hold(id(1))
	b.Release(id(1), time.Now().Add(time.Hour))
	if woke != 2 {
		t.Fatalf("woke %d times, want 2", woke)
	}
}

func TestPeerIDs(t *testing.T) {
	b, _ := test(t, Options{})
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	node, pid := key.Public().NodeID(), key.Public().PeerID()
	short := address.NodeAddress{NodeID: node, Protocol: address.Libp2p, Hostname: "20.1.0.1", Port: 4001}
	if _, err := b.Add(short, manual); !errors.Is(err, address.ErrPeerIDRequired) {
		t.Fatal(err)
	}
	if _, ok := b.PeerID(node); ok {
		t.Fatal("known")
	}
	if err := b.SetPeerID("nonsense"); err == nil {
		t.Fatal("taken")
	}
	if err := b.SetPeerID(pid); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, b, short, manual)
	if added, err := b.Add(short, manual); added || err != nil {
		t.Fatal(added, err)
	}
	full, err := short.WithPeerID(pid)
	if err != nil {
		t.Fatal(err)
	}
	if as := b.Addresses(node); len(as) != 1 || as[0] != full {
		t.Fatal(as)
	}
	if !b.Good(short) { // the same address, completed
		t.Fatal("not found")
	}
	if e, ok := b.Entry(full); !ok || !e.Verified {
		t.Fatalf("%+v", e)
	}
	if got, ok := b.PeerID(node); !ok || got != pid {
		t.Fatal(got)
	}
	for path, reason := range map[string]Reason{
		"/p2p/" + pid.String():                  RefusedNoPlace,
		"/dns4/udp/quic-v1/p2p/" + pid.String(): RefusedName,
	} {
		a := address.NodeAddress{NodeID: node, Protocol: address.Libp2p, Path: path}
		if reason == RefusedName {
			a.Hostname = "a.example"
		}
		_, err := b.Add(a, pex(1, "20.9.0.1"))
		if re, ok := errors.AsType[*RefusedError](err); !ok || re.Reason != reason || !strings.Contains(err.Error(), re.Reason.explain()) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// An address that carries the peer ID teaches it.
	key2, _ := identity.Generate()
	a, err := address.Parse("/ip4/20.2.0.1/tcp/4001/p2p/" + key2.Public().PeerID().String())
	if err != nil {
		t.Fatal(err)
	}
	mustAdd(t, b, a, pex(1, "20.9.0.1"))
	if got, _ := b.PeerID(a.NodeID); got != key2.Public().PeerID() {
		t.Fatal(got)
	}
}

func TestReadingTheBook(t *testing.T) {
	b, clk := test(t, Options{})
	for n := range 3 {
		mustAdd(t, b, at(n, global(n<<16).String()), pex(50, "20.9.0.1"))
	}
	if _, ok := b.Peer(id(9)); ok || b.Addresses(id(9)) != nil || b.Score(id(9)) != 0 || b.Failures(id(9)) != 0 || !b.NextOf(id(9)).IsZero() {
		t.Error("something is known of a stranger")
	}
	if _, ok := b.Entry(at(9, "20.1.0.1")); ok || b.Good(at(9, "20.1.0.1")) || b.Attempt(at(9, "20.1.0.1")) {
		t.Error("a strange address is known")
	}
	if _, ok := b.Dialable(id(9)); ok || b.ClearBan(id(9)) {
		t.Error("a stranger")
	}
	if ids := b.Peers(); len(ids) != 3 || ids[0] != id(0) || b.Len() != 3 {
		t.Error(ids)
	}
	b.Attempt(at(1, global(1<<16).String()))
	b.Failed(at(1, global(1<<16).String()), clk.now())
	b.Failed(at(1, global(1<<16).String()), clk.now())
	if n := b.Failures(id(1)); n != 2 {
		t.Error(n)
	}
	b.Adjust(id(1), 3)
	b.Adjust(id(2), -3)
	if s := b.Scores(); len(s) != 2 || s[id(1)] != 3 || s[id(2)] != -3 {
		t.Error(s)
	}
	k := b.Stats().Kinds[PEX]
	if k.Added != 3 || k.Attempts != 1 || k.Proven != 0 {
		t.Errorf("%+v", k)
	}
	b.Good(at(2, global(2<<16).String()))
	b.Good(at(2, global(2<<16).String()))
	if k := b.Stats().Kinds[PEX]; k.Proven != 1 {
		t.Errorf("%+v", k)
	}
	for n := range 2 * maxKinds {
		b.Add(at(100+n, global(n<<16).String()), Source{Kind: Kind(strings.Repeat("k", n)), IP: netip.MustParseAddr("20.9.0.1")})
	}
	if n := len(b.Stats().Kinds); n > maxKinds+1 {
		t.Errorf("%d kinds", n)
	}
	b.Disconnected(id(2))
	if p, _ := b.Peer(id(2)); !p.LastConnected.Equal(clk.now()) {
		t.Error(p.LastConnected)
	}
	for want, s := range map[string]string{
		Any.String(): "any", New.String(): "new", Tried.String(): "tried",
		"20.0.0.0/8 is banned until it is lifted":   Ban{Prefix: netip.MustParsePrefix("20.0.0.0/8")}.String(),
		"x is banned until 1970-01-01T00:00:05Z: y": Ban{Peer: "x", Until: time.Unix(5, 0), Reason: "y"}.String(),
	} {
		if want != s && s != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
}

func TestPrefixBans(t *testing.T) {
	b, clk := test(t, Options{})
	for _, p := range []string{"0.0.0.0/0", "::/0", "::ffff:0:0/96"} {
		if err := errors.Join(b.BanPrefix(netip.MustParsePrefix(p), 0, "")); err == nil {
			t.Errorf("%s is banned", p)
		}
	}
	if err := b.BanPrefix(netip.Prefix{}, 0, ""); err == nil || b.UnbanPrefix(netip.Prefix{}) == nil {
		t.Error("no prefix is banned")
	}
	for p, d := range map[string]time.Duration{"20.0.0.0/8": time.Hour, "20.1.0.0/16": 3 * time.Hour, "20.1.1.0/24": 2 * time.Hour, "2a00::/32": 0, "::ffff:21.0.0.0/104": 0} {
		if err := b.BanPrefix(netip.MustParsePrefix(p), d, p); err != nil {
			t.Fatal(err)
		}
	}
	for want, ip := range map[string]string{"20.1.0.0/16": "20.1.1.1", "20.0.0.0/8": "20.9.9.9", "2a00::/32": "2a00::5", "": "22.0.0.1", "21.0.0.0/8": "21.5.5.5"} {
		ban, ok := b.BannedIP(netip.MustParseAddr(ip))
		if ok != (want != "") || ok && ban.Prefix.String() != want {
			t.Errorf("%s: %v %v", ip, ban, ok)
		}
	}
	clk.add(150 * time.Minute)
	if ban, _ := b.BannedIP(netip.MustParseAddr("20.1.1.1")); ban.Prefix.Bits() != 16 || len(b.Bans()) != 3 {
		t.Errorf("%v, %v", ban, b.Bans())
	}
	b.do(func(c *core, now stamp) {
		for i := range maxPrefixes {
			c.banPrefix(netip.PrefixFrom(global(i<<8), 24).Masked(), sanctionFor(time.Minute, "", now), now)
		}
	})
	if err := b.BanPrefix(netip.MustParsePrefix("40.0.0.0/8"), 0, ""); err == nil || !strings.Contains(err.Error(), "lift some") {
		t.Error(err)
	}
	clk.add(time.Hour)
	if err := b.BanPrefix(netip.MustParsePrefix("40.0.0.0/8"), 0, ""); err != nil {
		t.Error(err)
	}
	if n := b.Stats().Prefixes; n > 10 {
		t.Errorf("%d prefixes", n)
	}
}

// However many strangers are scored and banned, the book stays bounded, and
// the bans that a person made without end stay.
func TestRecordsAreBounded(t *testing.T) {
	b, clk := test(t, Options{MaxRecords: 100})
	for n := range 10 {
		b.SetBan(id(n), 0, "by hand")
	}
	for n := range 5000 {
		b.Adjust(id(1000+n), -1)
		b.SetBan(id(100_000+n), time.Hour, "flood")
		b.Connected(id(200_000 + n))
		clk.add(time.Second)
	}
	if s := b.Stats(); s.Peers > 101 || s.Discarded == 0 {
		t.Fatalf("%+v", s)
	}
	for n := range 10 {
		if _, ok := b.Banned(id(n)); !ok {
			t.Fatal("a ban without end is gone")
		}
	}
	b.Hold(id(300_000))
	for n := range 1000 {
		b.Adjust(id(400_000+n), 100)
	}
	if p, ok := b.Peer(id(300_000)); !ok || !p.Held {
		t.Fatal("who is held is gone")
	}
	b.Release(id(300_000), time.Time{})
	b.Release(id(300_001), time.Time{})
	if _, ok := b.Peer(id(300_000)); ok {
		t.Fatal("a peer of which nothing is known stays")
	}
}

// Many goroutines at once, for -race.
func TestConcurrentUse(t *testing.T) {
	checkGoroutines(t)
	b, err := Open(NewMemoryStore(), Options{WriteDelay: time.Millisecond, NewBuckets: 16, TriedBuckets: 4})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 500 {
				a := at(n, global(n<<14).String())
				b.Learn(pex(g, "20.9.0.1"), []address.NodeAddress{a})
				if a, ok := b.Pick(Any); ok {
					b.Hold(a.NodeID)
					b.Attempt(a)
					b.Good(a)
					b.Adjust(a.NodeID, 1)
					b.Release(a.NodeID, time.Time{})
				}
				b.Sample(5, Audience{})
				b.Stats()
				if n%50 == 0 {
					if err := b.Ban(id(n), time.Hour, ""); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.c.invariants(b.now()); err != nil {
		t.Fatal(err)
	}
}

// Reserve is Pick, Hold and Attempt in one, and Release undoes it.
func TestReserve(t *testing.T) {
	b := open(t, NewMemoryStore(), Options{})
	for n := range 20 {
		if _, err := b.Add(at(n, global(n<<14).String()), pex(n%5, global(n<<15|1).String())); err != nil {
			t.Fatal(err)
		}
		b.Adjust(id(n), n) // so that they are among the best, too
	}
	seen := map[identity.NodeID]bool{}
	for {
		a, ok := b.Reserve(Any)
		if !ok {
			break
		}
		p, _ := b.Peer(a.NodeID)
		if seen[a.NodeID] || !p.Held || len(p.Addresses) != 1 || p.Addresses[0].LastAttempt.IsZero() {
			t.Fatalf("%v: %+v", a, p)
		}
		seen[a.NodeID] = true
	}
	if _, _, best := b.Best(); len(seen) != 20 || best {
		t.Errorf("%d reserved, one is still the best: %v", len(seen), best)
	}
	if _, ok := b.Pick(Any); ok || !b.Next().IsZero() {
		t.Error("something is left")
	}
	for id := range seen {
		b.Release(id, time.Time{})
	}
	if _, ok := b.Pick(Any); !ok {
		t.Error("nothing came back")
	}
}

// What Good said of a connection that did not last is taken back: the failures
// before it count on.
func TestRefused(t *testing.T) {
	b := open(t, NewMemoryStore(), Options{})
	a := at(1, global(1<<14).String())
	if _, err := b.Add(a, Source{Kind: Manual}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 5; n++ {
		e, _ := b.Entry(a)
		b.Good(a)
		if again, _ := b.Entry(a); again.Failures != 0 {
			t.Fatalf("%+v", again)
		}
		retry := time.Now().Add(time.Hour)
		if !b.Refused(a, e.Failures+1, retry) {
			t.Fatal("not there")
		}
		if e, _ = b.Entry(a); e.Failures != n || !e.Retry.Equal(time.Unix(0, retry.UnixNano())) || !e.Verified || e.Dialable {
			t.Fatalf("%d: %+v", n, e)
		}
	}
	if b.Refused(at(2, global(2<<14).String()), 1, time.Time{}) {
		t.Error("an address that is not there")
	}
}
