package p2p

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestSelfAddressVotes(t *testing.T) {
	ip := netip.MustParseAddr
	for name, test := range map[string]struct {
		votes [][2]string // a peer at, sees us at
		want  string      // "": nothing
	}{
		"two groups are too few":           {[][2]string{{"80.1.0.1", "90.1.1.1"}, {"81.1.0.1", "90.1.1.1"}}, ""},
		"three agree":                      {[][2]string{{"80.1.0.1", "90.1.1.1"}, {"81.1.0.1", "90.1.1.1"}, {"2a01:db9::1", "90.1.1.1"}}, "90.1.1.1"},
		"a /16 has one vote":               {[][2]string{{"80.1.0.1", "90.1.1.1"}, {"80.1.2.1", "90.1.1.1"}, {"80.1.3.9", "90.1.1.1"}, {"80.1.4.9", "90.1.1.1"}}, ""},
		"and a v6 /32":                     {[][2]string{{"2a01:db9::1", "90.1.1.1"}, {"2a01:db9:1::1", "90.1.1.1"}, {"2a01:db9:2::1", "90.1.1.1"}}, ""},
		"its last one":                     {[][2]string{{"80.1.0.1", "90.1.1.1"}, {"81.1.0.1", "90.1.1.1"}, {"82.1.0.1", "90.1.1.1"}, {"82.1.9.9", "66.6.6.6"}}, ""},
		"the most votes win":               {[][2]string{{"80.1.0.1", "66.6.6.6"}, {"81.1.0.1", "66.6.6.6"}, {"82.1.0.1", "66.6.6.6"}, {"83.1.0.1", "90.1.1.1"}, {"84.1.0.1", "90.1.1.1"}, {"85.1.0.1", "90.1.1.1"}, {"86.1.0.1", "90.1.1.1"}}, "90.1.1.1"},
		"mapped addresses are v4":          {[][2]string{{"::ffff:80.1.0.1", "::ffff:90.1.1.1"}, {"81.1.0.1", "90.1.1.1"}, {"82.1.0.1", "::ffff:90.1.1.1"}}, "90.1.1.1"},
		"a private /16 has one vote":       {[][2]string{{"192.168.0.1", "192.168.0.9"}, {"192.168.0.2", "192.168.0.9"}, {"192.168.0.3", "192.168.0.9"}, {"192.168.7.4", "192.168.0.9"}}, ""},
		"a private peer knows nothing":     {[][2]string{{"10.1.0.1", "90.1.1.1"}, {"10.2.0.1", "90.1.1.1"}, {"10.3.0.1", "90.1.1.1"}}, ""},
		"nor a global one of private ones": {[][2]string{{"80.1.0.1", "10.1.1.1"}, {"81.1.0.1", "10.1.1.1"}, {"82.1.0.1", "10.1.1.1"}}, ""},
		"nowhere is no place":              {[][2]string{{"80.1.0.1", "0.0.0.0"}, {"81.1.0.1", "0.0.0.0"}, {"82.1.0.1", "0.0.0.0"}}, ""},
		"nor is a multicast group":         {[][2]string{{"80.1.0.1", "224.0.0.1"}, {"81.1.0.1", "224.0.0.1"}, {"82.1.0.1", "224.0.0.1"}}, ""},
	} {
		var s selfAddress
		for _, v := range test.votes {
			s.vote(ip(v[0]), ip(v[1]))
		}
		if got, ok := s.observed(); ok != (test.want != "") || ok && got.String() != test.want {
			t.Errorf("%s: %v, %v, want %q", name, got, ok, test.want)
		}
	}
	var s selfAddress
	s.vote(netip.Addr{}, ip("90.1.1.1"))
	s.vote(ip("80.1.0.1"), netip.Addr{})
	if len(s.votes) != 0 {
		t.Error("an address that is none votes")
	}
}

// The votes kept are the latest, however many networks vote, and a hostile /16
// with all its addresses is one of them.
func TestHostileNetworkCannotWinTheVote(t *testing.T) {
	var s selfAddress
	truth, lie := netip.MustParseAddr("90.1.1.1"), netip.MustParseAddr("66.6.6.6")
	for i := range 5 {
		s.vote(netip.AddrFrom4([4]byte{80, byte(i), 0, 1}), truth)
	}
	for i := range 1 << 16 {
		s.vote(netip.AddrFrom4([4]byte{66, 6, byte(i >> 8), byte(i)}), lie)
	}
	if got, ok := s.observed(); !ok || got != truth {
		t.Fatal(got, ok)
	}
	for i := range 1000 {
		s.vote(netip.AddrFrom4([4]byte{100 + byte(i>>8), byte(i), 0, 1}), truth)
	}
	if len(s.votes) != selfVotesKept {
		t.Fatalf("%d votes are kept", len(s.votes))
	}
}

func TestSelfAddressIsAdvertised(t *testing.T) {
	self := nodeID("0")
	at := func(host string, port uint16) NodeAddress {
		return NodeAddress{Protocol: "mconn", NodeID: self, Hostname: host, Port: port}
	}
	for name, test := range map[string]struct {
		configured, listen NodeAddress
		seen               string
		want               []NodeAddress
	}{
		"nothing known":           {},
		"configured":              {configured: at("me.example", 7), want: []NodeAddress{at("me.example", 7)}},
		"only where we listen":    {listen: at("0.0.0.0", 7)},
		"observed beside it":      {configured: at("me.example", 7), listen: at("0.0.0.0", 8), seen: "90.1.1.1", want: []NodeAddress{at("me.example", 7), at("90.1.1.1", 7)}},
		"observed, and the same":  {configured: at("90.1.1.1", 7), seen: "90.1.1.1", want: []NodeAddress{at("90.1.1.1", 7)}},
		"observed, and listening": {listen: at("0.0.0.0", 8), seen: "90.1.1.1", want: []NodeAddress{at("90.1.1.1", 8)}},
		"observed, not listening": {seen: "90.1.1.1"},
		"a port is needed":        {listen: memoryAddress("0"), seen: "90.1.1.1"},
	} {
		m := newManager(t, PeerManagerOptions{SelfAddress: test.configured})
		m.attach(test.listen, func() {})
		if test.seen != "" {
			for i := range 3 {
				m.observedAt(Endpoint{IP: []byte{80, byte(i), 0, 1}}, netip.MustParseAddr(test.seen))
			}
		}
		if got := m.Advertise(nodeID("9"), 10); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
		if got := m.Advertise(nodeID("9"), 0); len(got) != 0 {
			t.Errorf("%s: %v, though nothing was asked for", name, got)
		}
	}
}

func TestAdvertise(t *testing.T) {
	at := func(c, host string) NodeAddress {
		return NodeAddress{Protocol: "mconn", NodeID: nodeID(c), Hostname: host, Port: 26656}
	}
	self, a, b, c, d, e := at("0", "90.1.1.1"), at("a", "80.1.0.1"), at("b", "81.1.0.1"), at("c", "82.1.0.1"), at("d", "83.1.0.1"), at("e", "84.1.0.1")
	o := PeerManagerOptions{
		SelfAddress: self, PersistentPeers: []NodeID{b.NodeID}, PeerScores: map[NodeID]PeerScore{a.NodeID: 3, c.NodeID: 2},
		PrivatePeers: map[NodeID]struct{}{e.NodeID: {}},
	}
	m := newManager(t, o)
	mustAdd(t, m, a, memoryAddress("a"), b, c, d, e)
	check := func(what string, got []NodeAddress, want ...NodeAddress) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	all := func(got []NodeAddress) string { return fmt.Sprint(len(got), slices.Contains(got, e)) }
	check("the best first", m.Advertise(nodeID("9"), 2), self, b)
	check("an address once", m.Advertise(nodeID("9"), 5)[:2], self, b)
	if got := m.Advertise(nodeID("9"), 100); all(got) != "6 false" || !slices.Contains(got, d) || !slices.Contains(got, memoryAddress("a")) {
		t.Error(got)
	}
	if got := m.Advertise(a.NodeID, 100); all(got) != "4 false" || slices.Contains(got, a) {
		t.Error("the asker is told of itself:", got)
	}
	// Banned and inactive peers are not told, whatever their score.
	if m.Ban(b.NodeID, 0, "") != nil || m.Inactivate(a.NodeID) != nil || m.Book().BanPrefix(netip.MustParsePrefix("82.0.0.0/8"), 0, "") != nil {
		t.Fatal("cannot ban")
	}
	check("bans", m.Advertise(nodeID("9"), 100), self, d)

	// With scopes, each hears what it can use.
	private, loop, local, named := at("a", "192.168.1.5"), at("b", "127.0.0.1"), memoryAddress("c"), at("d", "host.example")
	for _, scoped := range []bool{false, true} {
		m := newManager(t, PeerManagerOptions{ScopeAddresses: scoped, PeerScores: map[NodeID]PeerScore{private.NodeID: 4, loop.NodeID: 3, local.NodeID: 2, named.NodeID: 1}})
		mustAdd(t, m, private, loop, local, named, e)
		for from, want := range map[string][]NodeAddress{
			"80.9.0.1": {e}, "192.168.7.7": {private, e}, "127.0.0.1": {private, loop, e}, "": {local, e},
		} {
			asker, remote := nodeID("9"), Endpoint{Protocol: "memory"}
			if from != "" {
				remote = Endpoint{Protocol: "mconn", IP: netip.MustParseAddr(from).AsSlice()}
			}
			if err := m.AcceptedFrom(asker, remote); err != nil {
				t.Fatal(err)
			}
			if !scoped {
				want = []NodeAddress{private, loop, local, named, e}
			}
			check(fmt.Sprintf("scoped %v, to %q", scoped, from), m.Advertise(asker, 100), want...)
			if err := m.Disconnected(asker); err != nil {
				t.Fatal(err)
			}
		}
	}
}
