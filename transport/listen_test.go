package transport

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestListenGivesThePort(t *testing.T) {
	l := listen(t, New(Options{}), "/ip4/127.0.0.1/tcp/0")
	hp, err := HostPort(l.Multiaddr())
	if err != nil || hp != l.Addr().String() || strings.HasSuffix(hp, ":0") {
		t.Fatalf("%q, %v; bound to %v", hp, err, l.Addr())
	}
}

func TestListenTwice(t *testing.T) {
	tr := New(Options{})
	for _, addr := range []string{"/ip4/127.0.0.1/tcp/0", "/unix" + filepath.Join(t.TempDir(), "s")} {
		l := listen(t, tr, addr)
		_, err := tr.Listen(l.Multiaddr())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), l.Multiaddr().String()) {
			t.Errorf("%v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		listen(t, tr, l.Multiaddr().String()).Close()
	}
}

func TestCloseReleasesAccept(t *testing.T) {
	checkGoroutines(t)
	l := listen(t, New(Options{}), "/ip4/127.0.0.1/tcp/0")
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

func TestUnixSocketIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listen(t, New(Options{}), "/unix"+path)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi.Mode(), err)
	}
}

// Of a name's IPs the first that can be bound is.
func TestListenOnAName(t *testing.T) {
	tr := New(Options{Resolver: resolvesTo("127.0.0.1", "::1")})
	taken := listen(t, tr, "/ip4/127.0.0.1/tcp/0")
	name := ma.StringCast("/dns/some.name/tcp/" + must(taken.Multiaddr().ValueForProtocol(ma.P_TCP)))
	l := listen(t, tr, name.String())
	if head := l.Multiaddr()[0].String(); head != "/ip6/::1" {
		t.Fatal(head)
	}
	_, err := tr.Listen(name)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "::1") {
		t.Fatal(err)
	}
}

// tcpPeers is a PeerNetwork of which listeners are TCP and may say whom they listen as.
type tcpPeers struct {
	peersFunc
	as  peer.ID
	err error
	l   *asPeer
}

func (p *tcpPeers) ListenPeer() (net.Listener, error) {
	if p.err != nil {
		return nil, p.err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	p.l = &asPeer{Listener: l, as: p.as}
	return p.l, err
}

type asPeer struct {
	net.Listener
	as peer.ID
}

type peerAddr struct {
	net.Addr
	id peer.ID
}

func (a peerAddr) PeerID() peer.ID { return a.id }

func (l *asPeer) Addr() net.Addr {
	if l.as == "" {
		return l.Listener.Addr()
	}
	return peerAddr{l.Listener.Addr(), l.as}
}

func TestListenPeer(t *testing.T) {
	for _, as := range []string{"", somePeer} {
		net := &tcpPeers{}
		if as != "" {
			net.as = decode(t, as)
		}
		for _, before := range []string{"", "/ip4/1.2.3.4/udp/4001/quic-v1"} {
			l := listen(t, New(Options{Peers: net}), before+"/p2p/"+somePeer)
			if l.Multiaddr().String() != "/p2p/"+somePeer {
				t.Errorf("%v", l.Multiaddr())
			}
			l.Close()
		}
	}
}

func TestListenAsAnotherPeer(t *testing.T) {
	n := &tcpPeers{as: decode(t, otherPeer)}
	_, err := New(Options{Peers: n}).Listen(ma.StringCast("/p2p/" + somePeer))
	ue, ok := errors.AsType[*address.UnsupportedError](err)
	if !ok || ue.Component != "p2p" || !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), otherPeer) {
		t.Fatal(err)
	}
	if _, err := n.l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatal("the listener was left open")
	}
	n.err = errDown
	if _, err := New(Options{Peers: n}).Listen(ma.StringCast("/p2p/" + somePeer)); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
}
