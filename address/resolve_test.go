package address

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
)

// fakeDNS answers every name with the same IPs, or waits for the context when there are none and no error.
type fakeDNS struct {
	ips []net.IPAddr
	err error
}

func (d fakeDNS) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if d.ips == nil && d.err == nil {
		<-ctx.Done()
		return nil, &net.DNSError{Err: "interrupted", Name: host}
	}
	return d.ips, d.err
}

func answers(ips ...string) fakeDNS {
	d := fakeDNS{ips: []net.IPAddr{}}
	for _, s := range ips {
		d.ips = append(d.ips, net.IPAddr{IP: net.ParseIP(s)})
	}
	return d
}

func TestResolve(t *testing.T) {
	dns := answers("1.2.3.4", "::1", "1.2.3.4", "::ffff:1.2.3.4", "5.6.7.8")
	dns.ips = append(dns.ips, net.IPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, net.IPAddr{IP: net.IP("bad")})
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"mconn://<a>@h", []string{"mconn://1.2.3.4:26656", "mconn://[::1]:26656", "mconn://5.6.7.8:26656"}},
		{"mconn://<a>@h:1/x", []string{"mconn://1.2.3.4:1/x", "mconn://[::1]:1/x", "mconn://5.6.7.8:1/x"}},
		{"mconn://<a>@9.9.9.9", []string{"mconn://9.9.9.9:26656"}},
		{"pigeon://<a>@9.9.9.9", []string{"pigeon://9.9.9.9"}},
		{"memory:<a>", []string{"memory:<a>"}},
		{"libp2p://<A>@[::2]", []string{"libp2p://[::2]:4001/p2p/<A>"}},
		{"libp2p://<a>@h", []string{"libp2p://1.2.3.4:4001", "libp2p://[::1]:4001", "libp2p://5.6.7.8:4001"}},
		{"/dns4/h/udp/9/quic-v1/p2p/<A>", []string{"libp2p://1.2.3.4:9/udp/quic-v1/p2p/<A>", "libp2p://5.6.7.8:9/udp/quic-v1/p2p/<A>"}},
		{"/dns6/h/tcp/9/p2p/<R>/p2p-circuit/p2p/<A>", []string{"libp2p://[::1]:9/p2p/<R>/p2p-circuit/p2p/<A>"}},
		{"/dns6/h/tcp/9/wss/p2p/<A>", []string{"libp2p://[::1]:9/tcp/tls/sni/h/ws/p2p/<A>"}},
		{"/dns6/h/tcp/9/tls/ws/p2p/<A>", []string{"libp2p://[::1]:9/tcp/tls/sni/h/ws/p2p/<A>"}},
		{"/dns6/h/tcp/9/tls/sni/other/ws/p2p/<A>", []string{"libp2p://[::1]:9/tcp/tls/sni/other/ws/p2p/<A>"}},
		{"/dnsaddr/h/p2p/<A>", []string{"libp2p:/dnsaddr/h/p2p/<A>"}},
		{"/dnsaddr/h/udp/9/quic-v1/p2p/<A>", []string{"libp2p:/dnsaddr/h/udp/9/quic-v1/p2p/<A>"}},
		{"/p2p/<A>", []string{"libp2p:/p2p/<A>"}},
	} {
		a, err := Parse(expand(c.in))
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.ResolveWith(t.Context(), dns)
		var printed []string
		for _, e := range got {
			printed = append(printed, e.String())
			if err := e.Validate(); err != nil {
				t.Errorf("%s: endpoint %s: %v", a, e, err)
			}
			if err := e.NodeAddress(a.NodeID).Validate(); err != nil {
				t.Errorf("%s: back as an address: %v", a, err)
			}
		}
		for i := range c.want {
			c.want[i] = expand(c.want[i])
		}
		if err != nil || !slices.Equal(printed, c.want) {
			t.Errorf("%s: %v, %v; want %v", a, printed, err, c.want)
		}
	}
}

func TestResolveIsBounded(t *testing.T) {
	dns := fakeDNS{}
	for i := range 1000 {
		dns.ips = append(dns.ips, net.IPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))})
	}
	a := NodeAddress{NodeID: nodeA, Protocol: MConn, Hostname: "h"}
	got, err := a.ResolveWith(t.Context(), dns)
	if err != nil || len(got) != MaxEndpoints || got[63].String() != "mconn://10.0.0.63:26656" {
		t.Errorf("%d endpoints, %v; want the first %d", len(got), err, MaxEndpoints)
	}
}

func TestResolveErrors(t *testing.T) {
	a := NodeAddress{NodeID: nodeA, Protocol: MConn, Hostname: "h"}
	notFound := &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}
	var dnsErr *net.DNSError
	if _, err := a.ResolveWith(t.Context(), fakeDNS{err: notFound}); !errors.As(err, &dnsErr) {
		t.Errorf("not found: %v", err)
	}
	if _, err := a.ResolveWith(t.Context(), answers()); !errors.Is(err, ErrNoAddresses) {
		t.Errorf("no answer: %v", err)
	}
	only4, err := Parse(expand("/dns6/h/tcp/1/p2p/<A>"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := only4.ResolveWith(t.Context(), answers("1.2.3.4")); !errors.Is(err, ErrNoAddresses) {
		t.Errorf("no IPv6: %v", err)
	}
	if _, err := (NodeAddress{}).Resolve(t.Context()); !errors.Is(err, ErrInvalid) {
		t.Errorf("zero address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := a.ResolveWith(ctx, fakeDNS{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := a.ResolveWith(ctx, answers("1.2.3.4")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	literal := NodeAddress{NodeID: nodeA, Protocol: MConn, Hostname: "127.0.0.1"}
	if got, err := literal.Resolve(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("literal: %v, %v", got, err)
	}
}
