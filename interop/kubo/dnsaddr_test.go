package kubo

import (
	"fmt"
	"strings"
	"testing"
)

// TestKithForwardsToDNSAddr gives kith a peer by name alone: what kubo's script
// cannot show, since its nodes are connected from the start.
func TestKithForwardsToDNSAddr(t *testing.T) {
	dns := startDNS(t)
	kubo := startKubo(t, "kubo", true)
	service := serve(t, echo)
	kubo.do(t, "p2p", "listen", "/x/echo", service.maddr())
	other := startKith(t, "kith-other")

	const gone = "/ip4/127.0.0.1/tcp/9" // nobody listens on the discard port here
	dns.stand("one.example", kubo.addr)
	dns.stand("many.example", gone+"/p2p/"+kubo.id, kubo.addr)
	dns.stand("two.example", kubo.addr, other.addr)

	for _, test := range []struct{ name, target string }{
		{"with the peer ID", "/dnsaddr/one.example/p2p/" + kubo.id},
		{"bare", "/dnsaddr/one.example"},
		{"bare, an address gone", "/dnsaddr/many.example"},
		{"peer ID picks one of two", "/dnsaddr/two.example/p2p/" + kubo.id},
	} {
		t.Run(test.name, func(t *testing.T) {
			node := startKith(t, "kith", fmt.Sprintf("dns_server = %q", dns.addr))
			port := freePort(t)
			node.do(t, "p2p", "forward", "/x/echo", tcpMaddr(port), test.target)
			checkEcho(t, port)
			want := "/x/echo " + tcpMaddr(port) + " /p2p/" + kubo.id + "\n"
			if got := node.do(t, "p2p", "ls"); got != want {
				t.Errorf("p2p ls: %q, want %q", got, want)
			}
		})
	}

	t.Run("refused", func(t *testing.T) {
		node := startKith(t, "kith", fmt.Sprintf("dns_server = %q", dns.addr))
		for _, test := range []struct {
			target string
			says   []string // in the error, each
		}{
			{"/dnsaddr/two.example", []string{"two.example", "peers", "/p2p/"}},
			{"/dnsaddr/none.example", []string{"none.example"}},
		} {
			r := node.run(t, "p2p", "forward", "/x/echo", tcpMaddr(freePort(t)), test.target)
			if r.code == 0 {
				t.Errorf("%s was accepted", test.target)
			}
			for _, word := range test.says {
				if !strings.Contains(r.stderr, word) {
					t.Errorf("refusing %s, kith does not mention %q: %s", test.target, word, r.stderr)
				}
			}
		}
		if got := node.do(t, "p2p", "ls"); got != "" {
			t.Errorf("a refused forward is listed: %q", got)
		}
	})
}
