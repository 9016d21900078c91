package address

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/kith-p2p/kith/identity"
	ma "github.com/multiformats/go-multiaddr"
	mh "github.com/multiformats/go-multihash"
)

func TestParseSpellings(t *testing.T) {
	for _, c := range spellings {
		in, url, want := expand(c.in), expand(c.url), expand(c.multiaddr)
		a, err := Parse(in)
		if err != nil {
			t.Errorf("Parse(%q): %v", in, err)
			continue
		}
		if a.String() != url {
			t.Errorf("Parse(%q) = %s, want %s", in, a, url)
		}
		checkAddress(t, a)
		m, err := a.Multiaddr()
		switch {
		case want == "":
			if !errors.Is(err, ErrPeerIDRequired) && !errors.Is(err, ErrNoMultiaddr) {
				t.Errorf("%s: multiaddr %v, %v; want none", a, m, err)
			}
		case err != nil || m.String() != want:
			t.Errorf("%s: multiaddr %v, %v; want %s", a, m, err, want)
		}
		if id, ok := a.PeerID(); a.Protocol == Libp2p && want != "" && (!ok || id.String() != peerA) {
			t.Errorf("%s: peer ID %v, %v", a, id, ok)
		}
	}
}

// checkAddress holds what is true of every valid address.
func checkAddress(t testing.TB, a NodeAddress) {
	t.Helper()
	if err := a.Validate(); err != nil {
		t.Fatalf("%#v: %v", a, err)
	}
	for _, parse := range []func(string) (NodeAddress, error){Parse, ParseNodeAddress} {
		if back, err := parse(a.String()); err != nil || back != a {
			t.Fatalf("%#v prints %q, which reads as %#v, %v", a, a.String(), back, err)
		}
	}
	m, err := a.Multiaddr()
	if err == nil && a.Protocol == Libp2p {
		back, err := FromMultiaddr(m)
		if a.Port == 0 {
			back.Port = 0 // the default was filled in
		}
		if err != nil || back != a {
			t.Fatalf("%#v is %s, which reads as %#v, %v", a, m, back, err)
		}
	}
	if s, err := a.CometBFT(); err == nil {
		back, err := Parse(s)
		if a.Port == 0 {
			back.Port = 0
		}
		if err != nil || back != a {
			t.Fatalf("%#v is %s, which reads as %#v, %v", a, s, back, err)
		}
	}
}

// damaged addresses and the fault their error must name.
var damaged = []struct {
	in, fault string
	want      error // beside ErrInvalid
}{
	{"", "empty", nil},
	{"   ", "empty", nil},
	{strings.Repeat("a", MaxLength+1), "4097 bytes long", nil},
	{"/" + strings.Repeat("p2p/", MaxLength), "bytes long", nil},
	{"mconn://<a>@h o:1", "space at position", nil},
	{"mconn://<a>@h:1/a\x00b", "control character 0x00", nil},
	{"mconn://<a>@bücher.example:1", "xn--", nil},
	// who
	{"1.2.3.4:26656", "node ID is missing", nil},
	{"mconn://1.2.3.4:26656", "node ID is missing", nil},
	{"localhost:26656", "node ID is missing", nil},
	{"mconn://@h:1", "invalid node ID: empty", identity.ErrNodeID},
	{"memory:", "invalid node ID: empty", identity.ErrNodeID},
	{"mconn://abc@h:1", "3 characters, want 40", identity.ErrNodeID},
	{"mconn://<a>0@h:1", "neither a node ID (40 hex characters) nor a peer ID", nil},
	{"mconn://g123456789012345678901234567890123456789@h:1", "'g' at position 1", identity.ErrNodeID},
	{"mconn://<a>:password@h:1", "neither a node ID", nil},
	{"mconn://<a>@<a>@h:1", "neither a node ID", nil},
	{"mconn://<Q>@h:1", "does not carry a public key", identity.ErrNoPublicKey},
	{"libp2p://12D3KooWnonsense@h:1", "nor a peer ID", nil},
	{"libp2p://12D3KooW0000000000000000000000000000000000000000@h:1", "neither a node ID", nil},
	// scheme
	{"://<a>@h:1", "protocol is empty", nil},
	{"1conn://<a>@h:1", `'1' at position 1`, nil},
	{"m_conn://<a>@h:1", `'_' at position 2`, nil},
	{strings.Repeat("m", 33) + "://<a>@h:1", "33 characters, at most 32", nil},
	{"mconn:<a>@h:1", `// is missing after "mconn:"`, nil},
	{"mconn:<a>", "host is missing", nil},
	{"memory://<a>@h", "only memory:NODEID", nil},
	{"memory:<a>/x", "only memory:NODEID", nil},
	// host and port
	{"mconn://<a>@", "host is empty", nil},
	{"mconn://<a>@:26656", "host is empty", nil},
	{"mconn://<a>@h:", "port is empty", nil},
	{"mconn://<a>@h:0", "port 0 cannot be dialled", nil},
	{"mconn://<a>@h:65536", "port 65536 is not between", nil},
	{"mconn://<a>@h:99999999999999999999", "is not between", nil},
	{"mconn://<a>@h:-1", `port "-1" is not a number`, nil},
	{"mconn://<a>@h:+1", `port "+1" is not a number`, nil},
	{"mconn://<a>@h:http", `port "http" is not a number`, nil},
	{"mconn://<a>@::1:80", "stands in brackets", nil},
	{"mconn://<a>@[::1", "closing ]", nil},
	{"mconn://<a>@[::1]x", "after ] is not a port", nil},
	{"mconn://<a>@[1.2.3.4]:1", "only IPv6 addresses stand in brackets", nil},
	{"mconn://<a>@[::g]:1", "not an IPv6 address", nil},
	{"mconn://<a>@[fe80::1%eth0]:1", "zone", nil},
	{"mconn://<a>@1.2.3:1", `"1.2.3" is not an IPv4 address`, nil},
	{"mconn://<a>@1.2.3.256:1", "not an IPv4 address", nil},
	{"mconn://<a>@01.2.3.4:1", "not an IPv4 address", nil},
	{"mconn://<a>@0x7f.1:1", "not an IPv4 address", nil},
	{"mconn://<a>@0x7f000001:1", "not an IPv4 address", nil},
	{"mconn://<a>@a..b:1", "empty part between dots", nil},
	{"mconn://<a>@.:1", "empty part", nil},
	{"mconn://<a>@-a.b:1", "begins or ends with '-'", nil},
	{"mconn://<a>@a,b:1", "',' in it", nil},
	{"mconn://<a>@" + strings.Repeat("a", 64) + ":1", "64 characters, at most 63", nil},
	{"mconn://<a>@" + strings.Repeat("a.", 127) + "b:1", "255 characters, at most 253", nil},
	{"mconn://<a>@h?x", `"?x" does not begin with /`, nil},
	{"mconn://<a>@h:1/" + strings.Repeat("x", maxPath), "path has 3073 bytes", nil},
	// libp2p paths
	{"libp2p:<a>", "neither host nor peer ID", ErrPeerIDRequired},
	{"libp2p:<A>/tcp", "/tcp", nil},
	{"libp2p://<b>@h:1/p2p/<A>", "do not belong together", ErrIDMismatch},
	{"libp2p://<R>@h:1/p2p/<A>", "do not belong together", ErrIDMismatch},
	{"libp2p://<a>@h:1/p2p/<Q>", "does not carry a public key", identity.ErrNoPublicKey},
	{"libp2p://<a>@h:1/p2p/" + "12D3KooWbroken", "invalid value", nil},
	{"libp2p://<a>@h:1/nonsense", "unknown protocol nonsense", nil},
	{"libp2p://<a>@h:1/tcp/4001/p2p/<A>", "port stands after the host", nil},
	{"libp2p://<a>@1.2.3.4:1/dns4/p2p/<A>", "/dns4 is for names", nil},
	{"libp2p://<a>@h:1/dnsaddr/p2p/<A>", "a port without a transport", nil},
	{"libp2p://<a>@h:1/udp/p2p/<A>", "/udp is not supported: alone", nil},
	{"libp2p://<a>@h:1/http/p2p/<A>", "/http is not supported", nil},
	// multiaddrs
	{"/", "empty multiaddr", nil},
	{"/ip4", "unexpected end", nil},
	{"/ip4/1.2.3/tcp/1/p2p/<A>", `invalid value "1.2.3" for protocol ip4`, nil},
	{"/ip4/1.2.3.4/tcp/65536/p2p/<A>", `invalid value "65536" for protocol tcp`, nil},
	{"/ip4/1.2.3.4/tcp/0/p2p/<A>", "port 0 cannot be dialled", nil},
	{"/ip4/1.2.3.4/p2p/<A>", "lacks a transport", nil},
	{"/ip4/1.2.3.4/tcp/1", "peer ID required", ErrPeerIDRequired},
	{"/ip4/1.2.3.4/udp/1/quic-v1", "peer ID required", ErrPeerIDRequired},
	{"/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p-circuit", "peer ID required", ErrPeerIDRequired},
	{"/ip4/1.2.3.4/tcp/1/p2p/<Q>", "does not carry a public key", identity.ErrNoPublicKey},
	{"/dns/1.2.3.4/tcp/1/p2p/<A>", "/dns is for names", nil},
	{"/dns4/a..b/tcp/1/p2p/<A>", "empty part", nil},
	{"/nonsense/1/p2p/<A>", "unknown protocol nonsense", nil},
}

// unsupported are multiaddrs that libp2p's library can read and we cannot dial, with the component at fault.
var unsupported = []struct{ in, component string }{
	{"/ip4/1.2.3.4/udp/1/p2p/<A>", "udp"},
	{"/ip4/1.2.3.4/udp/1/quic/p2p/<A>", "quic"},
	{"/ip4/1.2.3.4/udp/1/webrtc-direct/certhash/<HASH>/p2p/<A>", "webrtc-direct"},
	{"/ip4/1.2.3.4/udp/1/utp/p2p/<A>", "utp"},
	{"/ip4/1.2.3.4/udp/1/quic-v1/webtransport/p2p/<A>", "webtransport"},
	{"/ip4/1.2.3.4/udp/1/quic-v1/ws/p2p/<A>", "ws"},
	{"/ip4/1.2.3.4/tcp/1/quic-v1/p2p/<A>", "quic-v1"},
	{"/ip4/1.2.3.4/tcp/1/tls/p2p/<A>", "tls"},
	{"/ip4/1.2.3.4/tcp/1/tls/sni/h/p2p/<A>", "tls"},
	{"/ip4/1.2.3.4/tcp/1/tls/sni/1.2.3.4/ws/p2p/<A>", "sni"},
	{"/ip4/1.2.3.4/tcp/1/noise/p2p/<A>", "noise"},
	{"/ip4/1.2.3.4/tcp/1/http/p2p/<A>", "http"},
	{"/ip4/1.2.3.4/tcp/1/ws/http-path/x/p2p/<A>", "http-path"},
	{"/ip4/1.2.3.4/tcp/1/ws/ws/p2p/<A>", "ws"},
	{"/ip4/1.2.3.4/tcp/1/tcp/2/p2p/<A>", "tcp"},
	{"/ip4/1.2.3.4/tcp/1/p2p/<A>/tcp/2", "tcp"},
	{"/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p/<A>", "p2p"},
	{"/ip4/1.2.3.4/tcp/1/p2p-circuit/p2p/<A>", "p2p-circuit"},
	{"/p2p-circuit/p2p/<A>", "p2p-circuit"},
	{"/ip4/1.2.3.4/tcp/1/p2p/<A>/p2p-circuit/p2p/<A>", "p2p-circuit"},
	{"/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p-circuit/p2p/<Q>/p2p-circuit/p2p/<A>", "p2p-circuit"},
	{"/ip4/1.2.3.4/tcp/1/p2p/<R>/p2p-circuit/ip4/1.1.1.1/tcp/1/p2p/<A>", "ip4"},
	{"/ip4/1.2.3.4/ipcidr/24/tcp/1/p2p/<A>", "ipcidr"},
	{"/ip4/1.2.3.4/sctp/1/p2p/<A>", "sctp"},
	{"/ip6zone/eth0/ip6/fe80::1/tcp/1/p2p/<A>", "ip6zone"},
	{"/unix/run/x.sock", "unix"},
	{"/memory/17/p2p/<A>", "memory"},
	{"/tcp/1/p2p/<A>", "tcp"},
	{"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234/p2p/<A>", "onion3"},
}

func TestParseDamaged(t *testing.T) {
	for _, c := range damaged {
		in := expand(c.in)
		a, err := Parse(in)
		var pe *ParseError
		if err == nil || !errors.Is(err, ErrInvalid) || !errors.As(err, &pe) || !strings.Contains(err.Error(), c.fault) ||
			c.want != nil && !errors.Is(err, c.want) || a != (NodeAddress{}) || len(err.Error()) > 700 {
			t.Errorf("Parse(%.120q) = %v, %v\n\twant the error to name %q and match %v", in, a, err, c.fault, c.want)
		}
	}
}

// Nothing after tcp or udp is silently dropped: the error names the component, for addresses and for peers.
func TestUnsupportedIsNamed(t *testing.T) {
	for _, c := range unsupported {
		in := expand(c.in)
		_, errAddress := Parse(in)
		_, _, errPeer := ParsePeer(in)
		for _, err := range []error{errAddress, errPeer} {
			var ue *UnsupportedError
			if !errors.As(err, &ue) || ue.Component != c.component || !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, want an UnsupportedError for %q", in, err, c.component)
			}
		}
	}
}

// Regression: base58 takes quadratic time, so that one hostile address of 4 KB held a core for 60 ms. Whatever is that
// long must be refused before it is decoded or printed; the values below would be valid otherwise.
func TestHugePeerIDIsRefusedUnread(t *testing.T) {
	long := make([]byte, 2900)
	for i := range long {
		long[i] = byte(i * 7)
	}
	sum, err := mh.Sum(long, mh.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	text := sum.B58String()
	for _, in := range []string{"/ip4/1.2.3.4/tcp/1/p2p/" + text, "libp2p://" + string(nodeA) + "@h/p2p/" + text[:3000], "/p2p/" + text} {
		for _, parse := range []func(string) error{
			func(s string) error { _, err := Parse(s); return err },
			func(s string) error { _, _, err := ParsePeer(s); return err },
		} {
			if err := parse(in); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "at most 253 are allowed") {
				t.Errorf("%.60s: %.300v", in, err)
			}
		}
	}
	if _, _, err := ParsePeer(text); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "too many for a peer ID") {
		t.Errorf("alone: %.300v", err)
	}
	if _, err := FromMultiaddr(mustMultiaddr(t, "/p2p/"+text)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "at most 253") {
		t.Errorf("FromMultiaddr: %.300v", err)
	}
	if _, err := FromMultiaddr(nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("FromMultiaddr(nil): %v", err)
	}
}

func TestValidateWantsTheCanonicalForm(t *testing.T) {
	good := NodeAddress{NodeID: nodeA, Protocol: Libp2p, Hostname: "h", Port: 1, Path: "/p2p/" + peerA}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*NodeAddress){
		"zero":        func(a *NodeAddress) { *a = NodeAddress{} },
		"no node":     func(a *NodeAddress) { a.NodeID = "" },
		"upper node":  func(a *NodeAddress) { a.NodeID = identity.NodeID(strings.ToUpper(string(nodeA))) },
		"other node":  func(a *NodeAddress) { a.NodeID = nodeB },
		"no protocol": func(a *NodeAddress) { a.Protocol = "" },
		"tcp":         func(a *NodeAddress) { a.Protocol = "tcp" },
		"upper":       func(a *NodeAddress) { a.Protocol = "LIBP2P" },
		"upper host":  func(a *NodeAddress) { a.Hostname = "H" },
		"brackets":    func(a *NodeAddress) { a.Hostname = "[::1]" },
		"long IPv6":   func(a *NodeAddress) { a.Hostname = "0:0::1" },
		"no host":     func(a *NodeAddress) { a.Hostname = "" },
		"path":        func(a *NodeAddress) { a.Path = "p2p/" + peerA },
		"tcp in path": func(a *NodeAddress) { a.Path = "/tcp/p2p/" + peerA },
		"slash":       func(a *NodeAddress) { a.Path = "/" },
		"slash after": func(a *NodeAddress) { a.Path += "/" },
	} {
		a := good
		change(&a)
		if err := a.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %#v is valid: %v", name, a, err)
		}
	}
}

func TestWithPeerID(t *testing.T) {
	for _, c := range [][2]string{
		{"libp2p://<a>@h:1", "libp2p://<a>@h:1/p2p/<A>"},
		{"libp2p://<a>@h:1/quic-v1", "libp2p://<a>@h:1/udp/quic-v1/p2p/<A>"},
		{"libp2p://<a>@h:1/p2p/<R>/p2p-circuit", "libp2p://<a>@h:1/p2p/<R>/p2p-circuit/p2p/<A>"},
		{"libp2p://<a>@h/dnsaddr", "libp2p://<a>@h/dnsaddr/p2p/<A>"},
	} {
		a, err := Parse(expand(c[0]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Multiaddr(); !errors.Is(err, ErrPeerIDRequired) {
			t.Errorf("%s: multiaddr without peer ID: %v", a, err)
		}
		full, err := a.WithPeerID(mustID(peerA))
		if err != nil || full.String() != expand(c[1]) {
			t.Errorf("%s: %v, %v", a, full, err)
		}
		if _, err := a.WithPeerID(mustID(peerR)); !errors.Is(err, ErrIDMismatch) {
			t.Errorf("%s with another's ID: %v", a, err)
		}
		if _, err := a.WithPeerID(mustID(peerQm)); !errors.Is(err, identity.ErrNoPublicKey) {
			t.Errorf("%s with a hash: %v", a, err)
		}
	}
}

func addSeeds(f *testing.F) {
	for _, c := range spellings {
		f.Add(expand(c.in))
	}
	for _, c := range damaged {
		f.Add(expand(c.in))
	}
	for _, c := range unsupported {
		f.Add(expand(c.in))
	}
}

// bounded fails when work on an input of n bytes allocates more than 4 times that and 64 KiB.
func bounded(t testing.TB, n int, work func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*n+64<<10); got > most {
		t.Fatalf("%d bytes allocated for an input of %d, at most %d are allowed", got, n, most)
	}
}

// Regression: 2,040 bytes of /udp/1/udp/1... cost 172,016 bytes of memory. No repetition of parts, short or long, may
// cost more than 4 times the input and 64 KiB, in any function that parses.
func TestRegressionManyPartsCostLittle(t *testing.T) {
	parsers := map[string]func(string){
		"Parse":            func(s string) { _, _ = Parse(s) },
		"ParseNodeAddress": func(s string) { _, _ = ParseNodeAddress(s) },
		"ParsePeer":        func(s string) { _, _, _ = ParsePeer(s) },
		"TargetMultiaddr":  func(s string) { _, _ = TargetMultiaddr(s) },
	}
	long := strings.Repeat("a", 63)
	long += "." + long + "." + long
	for _, front := range []string{"", "libp2p://<a>@h:4001", "libp2p://<A>@1.2.3.4:4001", "libp2p:<A>", "mconn://<a>@h:1", "/ip4/1.2.3.4", "/dns/h", "/ip4/1.2.3.4/udp/1/quic-v1/webtransport", "libp2p://<a>@h:1/udp/quic-v1/webtransport"} {
		for _, part := range []string{"/", "/a", "/tcp/1", "/udp/1", "/tcp", "/tcp/1/ws", "/ws", "/http", "/quic-v1", "/p2p-circuit", "/p2p/<A>", "/p2p/" + strings.Repeat("1", maxPart), "/p2p/" + strings.Repeat("z", maxPart),
			"/dns/a", "/dns4/" + long, "/sni/" + long, "/ip4/1.1.1.1", "/ip6/::1", "/certhash/<HASH>", "/certhash/u" + strings.Repeat("A", maxPart-1), "/http-path/" + strings.Repeat("%41", 80), "/unix/x"} {
			for _, end := range []string{"", "/p2p/<A>"} {
				f, p, e := expand(front), expand(part), expand(end)
				for _, n := range []int{200, 400, 800, 1500, 2040, maxPath, MaxLength, 2 * MaxLength} {
					s := f + strings.Repeat(p, max(0, n-len(f)-len(e))/len(p)) + e
					for name, parse := range parsers {
						t.Run("", func(t *testing.T) {
							defer func() {
								if t.Failed() {
									t.Logf("%s of %d bytes: %s and %s... and %s", name, len(s), front, part, end)
								}
							}()
							bounded(t, len(s), func() { parse(s) })
						})
					}
				}
			}
		}
	}
}

// A multiaddr of too many parts is refused with a clear word, the longest of use is not.
func TestParts(t *testing.T) {
	front := "/ip4/1.2.3.4/udp/1/quic-v1/webtransport"
	for hashes, fault := range map[int]string{10: "", 100: "at most 32 are allowed"} {
		in := expand(front + strings.Repeat("/certhash/<HASH>", hashes) + "/p2p/<R>/p2p-circuit/p2p/<A>")
		if len(in) > MaxLength {
			in = expand(front + strings.Repeat("/tcp/1", hashes) + "/p2p/<A>")
		}
		_, err := Parse(in)
		var pe *ParseError
		if fault == "" && err != nil || fault != "" && (!errors.As(err, &pe) || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%d: %v, want %q", hashes, err, fault)
		}
	}
	many := mustMultiaddr(t, strings.Repeat("/tcp/1", maxParts+1))
	if _, err := FromMultiaddr(many); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "at most 32 are allowed") {
		t.Errorf("FromMultiaddr: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		var a NodeAddress
		var err error
		bounded(t, len(s), func() { a, err = Parse(s) })
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: error %v is untyped", s, err)
			}
			return
		}
		checkAddress(t, a)
		if m, merr := ma.NewMultiaddr(strings.TrimSpace(s)); merr == nil {
			// What was a multiaddr comes back as the same, but for the canonical spelling of hosts.
			back, err := a.Multiaddr()
			if err != nil || len(back) != len(m) {
				t.Fatalf("%s became %v, %v", m, back, err)
			}
		}
	})
}

func FuzzParseNodeAddress(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, s string) {
		var a NodeAddress
		var err error
		bounded(t, len(s), func() { a, err = ParseNodeAddress(s) })
		if err == nil {
			checkAddress(t, a)
		} else if !errors.Is(err, ErrInvalid) {
			t.Fatalf("%q: error %v is untyped", s, err)
		}
	})
}

// What Validate lets pass survives printing, whatever the fields.
func FuzzNodeAddressFields(f *testing.F) {
	f.Add("mconn", "h", uint16(1), "/x")
	f.Add("libp2p", "", uint16(0), "/p2p/"+peerA)
	f.Add("x+y", "::1", uint16(0), "/")
	f.Fuzz(func(t *testing.T, protocol, host string, port uint16, path string) {
		a := NodeAddress{NodeID: nodeA, Protocol: Protocol(protocol), Hostname: host, Port: port, Path: path}
		var err error
		bounded(t, len(protocol)+len(host)+len(path), func() { err = a.Validate() })
		if err == nil {
			checkAddress(t, a)
		}
	})
}
