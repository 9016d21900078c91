package addrbook

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/identity"
)

// TestScripts runs testdata/*.txt: lines with "> " are commands, the lines
// after each what it must print. KITH_UPDATE=1 writes what it prints.
//
// N@IP is the mconn address of the N-th peer; a source is a kind, or kind:N@IP
// for a peer at an IP.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, clk: newClock(), store: NewMemoryStore()}
			var got bytes.Buffer
			skip := false
			for line := range strings.Lines(string(text)) {
				line = strings.TrimRight(line, "\n")
				cmd, isCmd := strings.CutPrefix(line, "> ")
				switch {
				case isCmd:
					fmt.Fprintf(&got, "> %s\n%s", cmd, s.run(strings.Fields(cmd)))
					skip = true
				case line == "" || strings.HasPrefix(line, "#"):
					skip = false
					fmt.Fprintln(&got, line)
				case !skip:
					t.Fatalf("stray line %q", line)
				}
			}
			if os.Getenv("KITH_UPDATE") != "" {
				os.WriteFile(file, got.Bytes(), 0o644)
			} else if !bytes.Equal(got.Bytes(), text) {
				t.Errorf("the book did\n%s\nthe script says\n%s", got.Bytes(), text)
			}
		})
	}
}

type script struct {
	t     *testing.T
	clk   *clock
	store *MemoryStore
	o     Options
	b     *Book
	woke  int
}

func (s *script) peer(word string) identity.NodeID {
	n, err := strconv.Atoi(word)
	if err != nil {
		s.t.Fatalf("%q is no peer", word)
	}
	return id(n)
}

func (s *script) addr(word string) address.NodeAddress {
	n, host, ok := strings.Cut(word, "@")
	if !ok {
		return address.NodeAddress{NodeID: s.peer(n), Protocol: address.Memory}
	}
	a := at(0, host)
	a.NodeID = s.peer(n)
	return a
}

func number(id identity.NodeID) string {
	n, _ := strconv.ParseUint(string(id[:16]), 16, 64)
	return fmt.Sprint(n)
}

func show(a address.NodeAddress) string {
	if a.IsZero() {
		return "none"
	}
	if a.Hostname == "" {
		return number(a.NodeID)
	}
	return number(a.NodeID) + "@" + a.Hostname
}

func (s *script) source(word string) Source {
	kind, who, ok := strings.Cut(word, ":")
	src := Source{Kind: Kind(kind)}
	if ok {
		a := s.addr(who)
		src.Peer, src.Protocol = a.NodeID, a.Protocol
		src.IP, _ = netip.ParseAddr(a.Hostname)
	}
	return src
}

func (s *script) duration(word string) time.Duration {
	d, err := time.ParseDuration(word)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) later(words []string) time.Time {
	if len(words) == 0 {
		return time.Time{}
	}
	return s.clk.now().Add(s.duration(words[0]))
}

func (s *script) since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Sub(s.clk.now()).String()
}

func (s *script) run(w []string) string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	woke := s.woke
	cmd, w := w[0], w[1:]
	switch cmd {
	case "book": // book new=N tried=N size=N per-peer=N peers=N self=N
		s.o = Options{Now: s.clk.now, Rand: seeded(1), Wake: func() { s.woke++ }, PrivatePeers: map[identity.NodeID]struct{}{}}
		for _, opt := range w {
			name, v, _ := strings.Cut(opt, "=")
			n, _ := strconv.Atoi(v)
			switch name {
			case "new":
				s.o.NewBuckets = n
			case "tried":
				s.o.TriedBuckets = n
			case "size":
				s.o.BucketSize = n
			case "per-peer":
				s.o.AddressesPerPeer = n
			case "peers":
				s.o.MaxPeers = n
			case "burst":
				s.o.LearnBurst = n
			case "self":
				s.o.Self = id(n)
			case "private":
				s.o.PrivatePeers[id(n)] = struct{}{}
			case "protocol":
				s.o.Protocols = []address.Protocol{address.Protocol(v)}
			default:
				s.t.Fatalf("option %q", opt)
			}
		}
		if s.b != nil {
			s.b.Close()
		}
		s.b = open(s.t, s.store, s.o)
		for _, n := range s.b.Notices() {
			say("%s", n)
		}
	case "wait":
		s.clk.add(s.duration(w[0]))
	case "add":
		added, err := s.b.Add(s.addr(w[0]), s.source(w[1]))
		if err != nil {
			_, text, _ := strings.Cut(err.Error(), " is not taken: ")
			say("refused: %s", text)
		} else {
			say("%s", map[bool]string{true: "new", false: "known"}[added])
		}
	case "learn": // learn SOURCE ADDR...
		var as []address.NodeAddress
		for _, word := range w[1:] {
			as = append(as, s.addr(word))
		}
		l := s.b.Learn(s.source(w[0]), as)
		say("%d new, %d known, refused %v", l.Added, l.Known, l.Refused)
	case "remove":
		say("%v", s.b.Remove(s.addr(w[0])))
	case "forget":
		say("%v", s.b.Forget(s.peer(w[0])))
	case "attempt":
		s.b.Attempt(s.addr(w[0]))
	case "good":
		s.b.Good(s.addr(w[0]))
	case "failed": // failed ADDR [RETRY]
		s.b.Failed(s.addr(w[0]), s.later(w[1:]))
	case "hold":
		s.b.Hold(s.peer(w[0]))
	case "release":
		s.b.Release(s.peer(w[0]), s.later(w[1:]))
	case "connected":
		s.b.Connected(s.peer(w[0]))
	case "reset":
		s.b.ResetRetries()
	case "adjust":
		n, _ := strconv.Atoi(w[1])
		say("%d", s.b.Adjust(s.peer(w[0]), n))
	case "ban":
		if strings.Contains(w[0], "/") {
			s.b.BanPrefix(netip.MustParsePrefix(w[0]), s.duration(w[1]), strings.Join(w[2:], " "))
		} else {
			s.b.Ban(s.peer(w[0]), s.duration(w[1]), strings.Join(w[2:], " "))
		}
	case "unban":
		if strings.Contains(w[0], "/") {
			s.b.UnbanPrefix(netip.MustParsePrefix(w[0]))
		} else {
			s.b.Unban(s.peer(w[0]))
		}
	case "bans":
		for _, b := range s.b.Bans() {
			if b.Prefix.IsValid() {
				say("%s %s %s", b.Prefix, s.since(b.Until), b.Reason)
			} else {
				say("%s %s %s", number(b.Peer), s.since(b.Until), b.Reason)
			}
		}
	case "shun":
		s.b.Shun(s.peer(w[0]), s.duration(w[1]), strings.Join(w[2:], " "))
	case "anchors":
		if len(w) > 0 {
			var as []address.NodeAddress
			for _, word := range w {
				as = append(as, s.addr(word))
			}
			s.b.SetAnchors(as)
			break
		}
		for _, a := range s.b.Anchors() {
			say("%s", show(a))
		}
	case "picks": // what 200 picks find
		tab := Any
		if len(w) > 0 {
			tab = map[string]Table{"new": New, "tried": Tried}[w[0]]
		}
		seen := map[string]bool{}
		for range 200 {
			a, _ := s.b.Pick(tab)
			seen[show(a)] = true
		}
		var all []string
		for a := range seen {
			all = append(all, a)
		}
		slices.Sort(all)
		say("%s", strings.Join(all, " "))
	case "feeler":
		a, _ := s.b.Feeler()
		say("%s", show(a))
	case "best":
		a, score, _ := s.b.Best()
		say("%s %d", show(a), score)
	case "dialable":
		a, _ := s.b.Dialable(s.peer(w[0]))
		say("%s", show(a))
	case "next":
		t := s.b.Next()
		if len(w) > 0 {
			t = s.b.NextOf(s.peer(w[0]))
		}
		if !t.IsZero() && !t.After(s.clk.now()) {
			say("now")
		} else {
			say("%s", s.since(t))
		}
	case "sample": // sample N AUDIENCE
		src := s.source("x:" + w[0])
		as := s.b.Sample(100, Audience{Peer: src.Peer, IP: src.IP, Protocol: src.Protocol})
		var all []string
		for _, a := range as {
			all = append(all, show(a))
		}
		slices.Sort(all)
		say("told %s", strings.Join(all, " "))
	case "peer":
		p, ok := s.b.Peer(s.peer(w[0]))
		if !ok {
			say("unknown")
			break
		}
		say("score %d, connected %s, held %v", p.Score, s.since(p.LastConnected), p.Held)
		for _, x := range []*Ban{p.Ban, p.Shun} {
			if x != nil {
				say("not before %s: %s", s.since(x.Until), x.Reason)
			}
		}
		for _, e := range p.Addresses {
			say("%s %v from %s, verified %v, failures %d, retry %s, given up %v, dialable %v", e.Address.Hostname, e.Table, e.Source.Kind, e.Verified, e.Failures, s.since(e.Retry), e.Given, e.Dialable)
		}
	case "stats":
		st := s.b.Stats()
		say("%d peers, %d addresses, %d tried, %d contests, %d displaced, %d expired, %d ousted", st.Peers, st.Addresses, st.Tried, st.Contests, st.Displaced, st.Expired, st.Ousted)
	default:
		s.t.Fatalf("command %q", cmd)
	}
	if s.woke != woke {
		say("woke")
	}
	return out.String()
}
