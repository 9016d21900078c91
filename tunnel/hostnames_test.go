package tunnel

import (
	"net"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Targets and local sockets may be given by name and by IPv6 address.
func TestTargetsAndBindsByNameAndIPv6(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	on := map[string]net.Listener{}
	for _, at := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
		if err != nil {
			t.Fatal(err)
		}
		serveOn(t, l, echo)
		on[at] = l
	}
	for target, at := range map[string]string{
		"/ip4/127.0.0.1": "127.0.0.1", "/ip6/::1": "::1", "/dns4/localhost": "127.0.0.1", "/dns/localhost": "127.0.0.1",
	} {
		if _, err := a.NewListener(t.Context(), target[1:], ma.StringCast(target+"/tcp/"+portOf(on[at])), AllowPeers(b.id)); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		for bind, bound := range map[string]string{
			"/ip4/127.0.0.1": "ip4/127.0.0.1", "/ip6/::1": "ip6/::1", "/dns4/localhost": "ip4/127.0.0.1", "/dns/localhost": "",
		} {
			t.Run(bind[1:]+" to "+target[1:], func(t *testing.T) {
				info, err := b.Dial(t.Context(), a.addr(), a.id, target[1:], ma.StringCast(bind+"/tcp/0"))
				if err != nil {
					t.Fatal(err)
				}
				if port(info.Address) == "0" || bound != "" && info.Address.String() != "/"+bound+"/tcp/"+port(info.Address) {
					t.Errorf("bound %s", info.Address)
				}
				network, addr, err := manet.DialArgs(info.Address)
				if err != nil {
					t.Fatal(err)
				}
				c, err := net.Dial(network, addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				roundTrip(t, c, "hello")
			})
		}
	}
}
