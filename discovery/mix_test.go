package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
)

var fromDHT = addrbook.Source{Kind: addrbook.DHT, Name: "test"}

// once is a source that says something at its start and then waits.
func once(name string, found ...Found) Source {
	return funcSource{name, func(ctx context.Context, learn func([]Found)) error {
		learn(found)
		<-ctx.Done()
		return nil
	}}
}

// start runs a mix in the background of a bubble and returns what ends it.
func start(t *testing.T, m *Mix) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func newMix(t *testing.T, cfg MixConfig) *Mix {
	t.Helper()
	m, err := NewMix(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func statsOf(t *testing.T, m *Mix, name string) SourceStats {
	t.Helper()
	for _, s := range m.Stats() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no source %q", name)
	return SourceStats{}
}

func many(n int, from addrbook.Source) []Found {
	var found []Found
	for i := range n {
		found = append(found, Found{numbered(i, public(i)), from})
	}
	return found
}

// Nobody gets more than a share in an interval, however much it says; what
// waits comes later, and there is an end to it.
func TestFairShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		honest := []Found{{numbered(1<<20, "9.9.9.9"), fromDHT}}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{once("flood", many(10_000, addrbook.Source{Kind: addrbook.DNS, Name: "evil.example"})...), once("honest", honest...)}})
		defer start(t, m)()
		synctest.Wait()
		s := statsOf(t, m, "flood")
		if s.Offered != 10_000 || s.Added != 64 || s.Waiting != maxWaiting || s.Refused[RefusedShare] != 10_000-64-maxWaiting {
			t.Errorf("at once: %+v", s)
		}
		if s := statsOf(t, m, "honest"); s.Added != 1 {
			t.Errorf("the other: %+v", s)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if s := statsOf(t, m, "flood"); s.Added != 128 || s.Waiting != maxWaiting-64 {
			t.Errorf("after an interval: %+v", s)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := statsOf(t, m, "flood"); s.Added+s.Refused[addrbook.RefusedFull] != 64+maxWaiting || s.Waiting != 0 {
			t.Errorf("in the end: %+v", s)
		}
	})
}

// A source that never stops gets a bounded part of the book: what the others
// teach still finds room.
func TestNoSourceFillsTheBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{NewBuckets: 256, BucketSize: 16, WriteDelay: time.Hour})
		flood := funcSource{"flood", func(ctx context.Context, learn func([]Found)) error {
			for i := 0; ctx.Err() == nil; i += 100 {
				var found []Found
				for n := i; n < i+100; n++ {
					found = append(found, Found{numbered(n, fmt.Sprintf("%d.%d.%d.1", 11+n/65536%80, n/256%256, n%256)), addrbook.Source{Kind: addrbook.DNS, Name: "evil.example"}})
				}
				learn(found)
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
				}
			}
			return nil
		}}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{flood}})
		stop := start(t, m)
		time.Sleep(24 * time.Hour)
		stop()
		st := book.Stats()
		if most := 64 * 16; st.Addresses == 0 || st.Addresses > most {
			t.Errorf("%d addresses of %d places after a day of flood, at most %d", st.Addresses, 256*16, most)
		}
		s := statsOf(t, m, "flood")
		if s.Added > 24*60*64+64 || s.Refused[addrbook.RefusedRate] == 0 {
			t.Errorf("%+v", s)
		}
		room := 0
		for i := range 100 {
			l := book.Learn(addrbook.Source{Kind: addrbook.DNS, Name: fmt.Sprintf("good%d.example", i)}, []address.NodeAddress{numbered(1<<30+i, fmt.Sprintf("99.%d.1.1", i))})
			room += l.Added
		}
		if room < 50 {
			t.Errorf("of 100 addresses of others %d find room", room)
		}
	})
}

// One place named by many IDs is a victim, not a crowd.
func TestVictimsAreNotNamedOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		var found []Found
		for i := range 30 {
			found = append(found, Found{numbered(i, "93.184.1.1"), fromDHT})
		}
		for i := range 30 {
			found = append(found, Found{numbered(100+i, fmt.Sprintf("93.184.2.%d", i+1)), fromDHT})
		}
		for i := range 30 { // a local network is one group, and no victim
			found = append(found, Found{numbered(200+i, fmt.Sprintf("192.168.1.%d", i+1)), addrbook.Source{Kind: addrbook.MDNS}})
		}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{once("dht", found...)}})
		defer start(t, m)()
		synctest.Wait()
		s := statsOf(t, m, "dht")
		if s.Added != 16+30 || s.Refused[RefusedCrowd] != 60-16 {
			t.Errorf("%+v", s)
		}
		at := 0
		for _, id := range book.Peers() {
			for _, a := range book.Addresses(id) {
				if a.Hostname == "93.184.1.1" {
					at++
				}
			}
		}
		if at != 4 {
			t.Errorf("the victim is in the book %d times, want 4", at)
		}
	})
}

// Private addresses from far away do not enter the book, and are counted.
func TestPrivateAddressesFromAfar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		var found []Found
		for i, ip := range []string{"10.0.0.1", "192.168.0.1", "127.0.0.1", "169.254.1.1", "fd00::1", "::1", "224.0.0.1"} {
			found = append(found, Found{numbered(i, ip), fromDHT})
		}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{once("dht", found...)}})
		defer start(t, m)()
		synctest.Wait()
		if s := statsOf(t, m, "dht"); s.Added != 0 || s.Refused[addrbook.RefusedScope] != uint64(len(found)) || book.Len() != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A source that fails, panics, or blocks does not touch the others, and is run
// again ever more rarely.
func TestSourcesThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		boom := errors.New("boom")
		fails := funcSource{"fails", func(context.Context, func([]Found)) error { return boom }}
		panics := funcSource{"panics", func(context.Context, func([]Found)) error { panic("boom") }}
		blocks := funcSource{"blocks", func(ctx context.Context, _ func([]Found)) error { <-ctx.Done(); return nil }}
		done := funcSource{"done", func(context.Context, func([]Found)) error { return nil }}
		good := funcSource{"good", func(ctx context.Context, learn func([]Found)) error {
			for i := 0; ; i++ {
				learn([]Found{{numbered(i, public(i)), fromDHT}})
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
					return nil
				}
			}
		}}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{fails, panics, blocks, done, good}})
		stop := start(t, m)
		time.Sleep(time.Hour + time.Second)
		for name, want := range map[string]State{"fails": StateFailed, "panics": StateFailed, "blocks": StateRunning, "done": StateDone, "good": StateRunning} {
			s := statsOf(t, m, name)
			if s.State != want {
				t.Errorf("%s: %+v", name, s)
			}
			// 5 s, 10 s, ... 5 min, with jitter: about 17 in an hour
			if retried := want == StateFailed; retried && (s.Runs < 12 || s.Runs > 26 || s.Failures != int(s.Runs)) || !retried && s.Runs != 1 {
				t.Errorf("%s was run %d times in an hour", name, s.Runs)
			}
		}
		if s := statsOf(t, m, "fails"); !errors.Is(s.LastError, boom) {
			t.Errorf("%v", s.LastError)
		}
		s := statsOf(t, m, "panics")
		if e, ok := errors.AsType[*PanicError](s.LastError); !ok || e.Value != "boom" || s.Panics != s.Runs || !strings.Contains(string(e.Stack), "TestSourcesThatFail") {
			t.Errorf("%v, %d panics", s.LastError, s.Panics)
		}
		if s := statsOf(t, m, "good"); s.Added != 61 {
			t.Errorf("%+v", s)
		}
		stop()
		for _, s := range m.Stats() {
			if s.State != StateOff {
				t.Errorf("after the end: %+v", s)
			}
		}
	})
}

// Run returns when the last source has ended, and names who keeps it.
func TestRunWaitsAndNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := funcSource{"stuck", func(context.Context, func([]Found)) error { <-release; return nil }}
		var log bytes.Buffer
		m := newMix(t, MixConfig{Learner: newBook(t, addrbook.Options{}), Sources: []Source{stuck, once("good")}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { m.Run(ctx); close(ended) }()
		synctest.Wait()
		if err := m.Run(t.Context()); !errors.Is(err, ErrRunning) {
			t.Errorf("a second Run: %v", err)
		}
		cancel()
		time.Sleep(patience + time.Second)
		synctest.Wait()
		select {
		case <-ended:
			t.Error("Run returned before its source")
		default:
		}
		if s := log.String(); !strings.Contains(s, "stuck") || strings.Contains(s, "good") {
			t.Errorf("log: %s", s)
		}
		close(release)
		<-ended
	})
}

// Each source can be switched off and on; what it says after its end does not
// count.
func TestSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		var late func([]Found)
		a := funcSource{"a", func(ctx context.Context, learn func([]Found)) error {
			late = learn
			learn(many(200, fromDHT))
			<-ctx.Done()
			return ctx.Err()
		}}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{a, once("b", Found{numbered(1000, "9.9.9.9"), fromDHT})}, Off: []string{"b"}})
		if err := m.Switch(t.Context(), "c", true); !errors.Is(err, ErrUnknownSource) {
			t.Errorf("%v", err)
		}
		stop := start(t, m)
		synctest.Wait()
		if s := statsOf(t, m, "b"); s.Runs != 0 || s.State != StateOff {
			t.Errorf("b is off: %+v", s)
		}
		if err := m.Switch(t.Context(), "b", true); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := statsOf(t, m, "b"); s.Added != 1 || s.State != StateRunning {
			t.Errorf("b is on: %+v", s)
		}
		if err := m.Switch(t.Context(), "a", false); err != nil {
			t.Error(err)
		}
		before := statsOf(t, m, "a")
		if before.State != StateOff || before.Waiting != 0 || before.Failures != 0 {
			t.Errorf("a is off: %+v", before)
		}
		late(many(300, fromDHT))
		time.Sleep(2 * time.Minute)
		if s := statsOf(t, m, "a"); s.Offered != before.Offered || s.Added != before.Added || s.Runs != 1 {
			t.Errorf("a is off and speaks: %+v", s)
		}
		if err := m.Switch(t.Context(), "a", true); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := statsOf(t, m, "a"); s.Runs != 2 || s.State != StateRunning {
			t.Errorf("a is on again: %+v", s)
		}
		stop()
		late(many(1, fromDHT))
	})
}

// Turning on what has failed, or had nothing more, runs it again at once.
func TestSwitchOnRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMix(t, MixConfig{Learner: newBook(t, addrbook.Options{}), Sources: []Source{
			funcSource{"done", func(context.Context, func([]Found)) error { return nil }},
			funcSource{"fails", func(context.Context, func([]Found)) error { return errNoName }},
		}})
		defer start(t, m)()
		synctest.Wait()
		for _, name := range []string{"done", "fails"} {
			if err := m.Switch(t.Context(), name, true); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if s := statsOf(t, m, name); s.Runs != 2 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// A source that cannot be stopped does not hold up who stops it for ever.
func TestSwitchHonoursItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		m := newMix(t, MixConfig{Learner: newBook(t, addrbook.Options{}), Sources: []Source{
			funcSource{"stuck", func(context.Context, func([]Found)) error { <-release; return nil }},
		}})
		stop := start(t, m)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Switch(ctx, "stuck", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(release)
		stop()
	})
}

// The outcome of a dial counts for every source that taught the address, and
// for peer exchange what the book says is its.
func TestSuccessCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		both, one, pexed := numbered(1, public(1)), numbered(2, public(2)), numbered(3, public(3))
		m := newMix(t, MixConfig{
			Learner:  book,
			Sources:  []Source{once("a", Found{both, fromDHT}, Found{one, fromDHT}, Found{numbered(9, "10.0.0.1"), fromDHT}), once("b", Found{both, fromDHT})},
			External: []External{{"pex", addrbook.PEX, book}},
		})
		defer start(t, m)()
		synctest.Wait()
		pex := addrbook.Source{Kind: addrbook.PEX, Peer: numbered(7, "").NodeID, IP: hostIP(both)}
		book.Learn(pex, []address.NodeAddress{pexed, numbered(8, "10.0.0.1")})
		for _, c := range []struct {
			a     address.NodeAddress
			err   error
			known bool
		}{
			{both, nil, true}, {one, errNoName, true}, {one, errNoName, true}, {pexed, nil, true}, {pexed, errNoName, true},
			{numbered(9, "10.0.0.1"), nil, false}, {numbered(77, "9.9.9.9"), nil, false},
		} {
			if got := m.Dialled(c.a, c.err); got != c.known {
				t.Errorf("%v: counted %v", c.a, got)
			}
		}
		want := map[string]Dials{"a": {1, 2}, "b": {1, 0}, "pex": {1, 1}}
		got := map[string]Dials{}
		for _, s := range m.Stats() {
			got[s.Name] = s.Dials
		}
		if !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if s := statsOf(t, m, "pex"); s.State != StateExternal || s.Added != 1 || s.Offered < 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The counts of a source are remembered for a bounded number of addresses.
func TestMemoryIsBounded(t *testing.T) {
	var m memory
	for i := range 3 * maxTaught {
		m.add(numbered(i, public(i)))
		m.add(numbered(i, public(i)))
	}
	if len(m.known) != maxTaught || len(m.ring) != maxTaught {
		t.Errorf("%d and %d", len(m.known), len(m.ring))
	}
	for i := range 3 * maxTaught {
		if got, want := m.has(numbered(i, public(i))), i >= 2*maxTaught; got != want {
			t.Fatalf("%d: %v", i, got)
		}
	}
}

// Everything at once, for the race detector.
func TestMixFromAllSides(t *testing.T) {
	noLeaks(t)
	book := newBook(t, addrbook.Options{})
	var sources []Source
	for i := range 4 {
		sources = append(sources, funcSource{fmt.Sprint("s", i), func(ctx context.Context, learn func([]Found)) error {
			for n := 0; ctx.Err() == nil && n < 200; n++ {
				learn([]Found{{numbered(n, public(n)), fromDHT}})
			}
			if i == 0 {
				panic("boom")
			}
			return nil
		}})
	}
	m := newMix(t, MixConfig{Learner: book, Sources: sources, External: []External{{"pex", addrbook.PEX, book}}, Interval: time.Millisecond})
	defer start(t, m)()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 50 {
				if err := m.Switch(t.Context(), fmt.Sprint("s", i), n%2 == 1); err != nil {
					t.Error(err)
				}
				m.Dialled(numbered(n, public(n)), nil)
				m.Stats()
			}
		})
	}
	all.Wait()
	for i := range 4 {
		eventually(t, "it ran in the end", func() bool {
			s := statsOf(t, m, fmt.Sprint("s", i))
			return s.Runs > 0 && (s.State == StateDone || s.State == StateFailed)
		})
	}
}

// What the book knows already costs no share.
func TestKnownAddressesCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		found := many(60, fromDHT)
		for i := range found[:4] {
			found[i].Address.Hostname = "9.9.9.9" // as many of one place as may be
		}
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{funcSource{"dht", func(ctx context.Context, learn func([]Found)) error {
			for range 3 {
				learn(found)
			}
			learn([]Found{{numbered(1000, "9.9.9.8"), fromDHT}})
			<-ctx.Done()
			return nil
		}}}})
		defer start(t, m)()
		synctest.Wait()
		if s := statsOf(t, m, "dht"); s.Added != 61 || s.Known != 120 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestMixOptions(t *testing.T) {
	book := newBook(t, addrbook.Options{})
	for name, c := range map[string]struct {
		cfg  MixConfig
		want error
	}{
		"no learner":      {MixConfig{}, ErrOptions},
		"twice":           {MixConfig{Learner: book, Sources: []Source{once("a"), once("a")}}, ErrOptions},
		"no name":         {MixConfig{Learner: book, Sources: []Source{once("")}}, ErrOptions},
		"negative":        {MixConfig{Learner: book, Share: -1}, ErrOptions},
		"external twice":  {MixConfig{Learner: book, Sources: []Source{once("a")}, External: []External{{"a", addrbook.PEX, book}}}, ErrOptions},
		"external nobody": {MixConfig{Learner: book, External: []External{{Name: "pex", Kind: addrbook.PEX}}}, ErrOptions},
		"off and unknown": {MixConfig{Learner: book, Off: []string{"x"}}, ErrUnknownSource},
	} {
		if _, err := NewMix(c.cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without sources nothing is looked for, and nothing is left.
func TestNothingIsJoinedUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		m := newMix(t, MixConfig{Learner: book})
		stop := start(t, m)
		time.Sleep(24 * time.Hour)
		if len(m.Stats()) != 0 || book.Len() != 0 {
			t.Errorf("%+v", m.Stats())
		}
		stop()
	})
}

// What a source had taught once cost no share of its host and its network when it
// came again, though the book had let it go: a victim could be named for ever, 64
// times a minute.
func TestRegressionTaughtOnceWasFreeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		var victim []Found
		for i := range 60 {
			victim = append(victim, Found{numbered(i, "93.184.1.1"), fromDHT})
		}
		speak := make(chan []Found)
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{funcSource{"dht", func(ctx context.Context, learn func([]Found)) error {
			for {
				select {
				case found := <-speak:
					learn(found)
				case <-ctx.Done():
					return nil
				}
			}
		}}}})
		defer start(t, m)()
		for n := 0; n < len(victim); n += 4 { // each is taught, a few in each interval
			speak <- victim[n : n+4]
			synctest.Wait()
			for _, f := range victim[n : n+4] { // the book gives it up
				book.Remove(f.Address)
			}
			time.Sleep(time.Minute + time.Second)
		}
		if s := statsOf(t, m, "dht"); s.Added != 60 {
			t.Fatalf("%+v", s)
		}
		speak <- victim
		synctest.Wait()
		if s := statsOf(t, m, "dht"); s.Added != 60+4 || s.Refused[RefusedCrowd] != 60-4 {
			t.Errorf("taught again at once: %+v", s)
		}
		// Those in the book cost nothing, and are no way around the share.
		speak <- victim
		synctest.Wait()
		if s := statsOf(t, m, "dht"); s.Added != 60+4 || s.Known != 4 {
			t.Errorf("and again: %+v", s)
		}
	})
}

// vanishing has lost by the time of Learn what it knew at that of Entry.
type vanishing struct{ *addrbook.Book }

func (vanishing) Entry(address.NodeAddress) (addrbook.Entry, bool) { return addrbook.Entry{}, true }

// What turns out to be new after all is charged.
func TestWhatVanishesIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMix(t, MixConfig{Learner: vanishing{newBook(t, addrbook.Options{})}, Sources: []Source{once("dht", many(70, fromDHT)...)}})
		defer start(t, m)()
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if s := m.sources[0]; s.share.left != 64-70 || s.share.hosts[hostIP(numbered(0, public(0)))] != 1 {
			t.Errorf("%d left, of hosts %v", s.share.left, s.share.hosts)
		}
	})
}

// Whoever came first, and often, filled all the room where addresses wait, and
// those of others were dropped, which mDNS does not announce again for an hour.
func TestRegressionACrowdFilledTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, addrbook.Options{})
		mdns := addrbook.Source{Kind: addrbook.MDNS, Protocol: address.MConn}
		var found []Found
		for i := range 10_000 {
			found = append(found, Found{numbered(i, fmt.Sprintf("10.0.0.%d", 1+i%20)), mdns})
		}
		found = append(found, Found{numbered(1<<20, "10.0.0.99"), mdns})
		m := newMix(t, MixConfig{Learner: book, Sources: []Source{once("mdns", found...)}})
		defer start(t, m)()
		synctest.Wait()
		if s := statsOf(t, m, "mdns"); s.Waiting != maxWaiting || s.Refused[RefusedShare] != 10_001-64-maxWaiting {
			t.Errorf("%+v", s)
		}
		time.Sleep(maxWaiting / 64 * time.Minute)
		time.Sleep(time.Second)
		if len(book.Addresses(numbered(1<<20, "").NodeID)) != 1 {
			t.Errorf("the one at a place of its own was crowded out: %+v", statsOf(t, m, "mdns"))
		}
	})
}

// The queue is bounded, keeps its counts, and lets the crowd go first.
func TestQueue(t *testing.T) {
	var q queue
	for i := range 50 {
		q.add(Found{Address: numbered(i, public(i))})
	}
	for i := range 1000 {
		if gaveWay := q.add(Found{Address: numbered(1000+i, "10.0.0.1")}); gaveWay != (50+i >= maxWaiting) {
			t.Fatalf("%d: %v", i, gaveWay)
		}
	}
	count := map[string]int{}
	for _, f := range q.items {
		if f.place != placeOf(f.Address) {
			t.Errorf("%v is not at %s", f.Address, f.place)
		}
		count[f.place]++
	}
	if len(q.items) != maxWaiting || !maps.Equal(count, q.places) || count["10.0.0.1"] != maxWaiting-50 {
		t.Errorf("%d wait, %v", len(q.items), count)
	}
	for i := range 1000 { // no place has more than another: all have the same chance
		q.add(Found{Address: numbered(1000+i, public(100+i))})
	}
	if len(q.items) != maxWaiting || q.places["10.0.0.1"] > 1 || len(q.places) != maxWaiting {
		t.Errorf("%d wait at %d places, %d at one", len(q.items), len(q.places), q.places["10.0.0.1"])
	}
}

// reports is a source that says more of itself.
type reports struct {
	funcSource
	tally
	fault error
}

func (r *reports) Report() (map[addrbook.Reason]uint64, error) {
	refused, _ := r.tally.Report()
	return refused, r.fault
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reports{funcSource: once("dht", many(1, fromDHT)...).(funcSource), fault: errNoName}
		r.add(addrbook.RefusedScope, 3)
		m := newMix(t, MixConfig{Learner: newBook(t, addrbook.Options{}), Sources: []Source{r}})
		defer start(t, m)()
		synctest.Wait()
		for range 2 { // asking does not count again
			if s := statsOf(t, m, "dht"); s.Added != 1 || s.Refused[addrbook.RefusedScope] != 3 || !errors.Is(s.LastError, errNoName) {
				t.Errorf("%+v", s)
			}
		}
	})
}
