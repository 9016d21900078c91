package tunnel_test

import (
	"errors"
	"testing"

	"github.com/kith-p2p/kith/internal/host"
	"github.com/kith-p2p/kith/tunnel"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A program lists what it serves and carries by itself beside the mounts of the
// P2P. Register used to take types that nobody outside could make.

type myMount struct{ closed int }

func (m *myMount) Info() tunnel.ListenerInfo {
	return tunnel.ListenerInfo{Kind: tunnel.KindExpose, Protocol: "mine", ID: 99}
}

func (m *myMount) Close() error {
	m.closed++
	return errors.New("closed")
}

type myConn struct {
	remote peer.ID
	cut    *tunnel.Error
}

func (c *myConn) RemotePeer() peer.ID { return c.remote }
func (c *myConn) Info() tunnel.StreamInfo {
	return tunnel.StreamInfo{Protocol: "mine", RemotePeer: c.remote, BytesIn: 7}
}
func (c *myConn) Cut(e *tunnel.Error) { c.cut = e }

func TestRegressionRegistriesTakeWhatOthersMake(t *testing.T) {
	key, _, err := crypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.New(host.Config{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p := tunnel.NewP2P(h.ID(), h, nil)
	defer p.Close()

	m := new(myMount)
	i := p.Listeners.Register(m)
	if list := p.Listeners.List(); len(list) != 1 || list[0].Protocol != "mine" || list[0].ID != i.ID || i.ID == 99 || !list[0].Running || list[0].Since.IsZero() {
		t.Fatalf("%+v", list)
	}
	if err := i.Closer.Close(); err == nil || i.Closer.Close() != err || m.closed != 1 {
		t.Errorf("%v, closed %d times", err, m.closed)
	}
	<-i.Done
	if len(p.Listeners.List()) != 0 || p.Listeners.Deregister(i.ID) {
		t.Error("it is still listed")
	}
	p.Listeners.Register(m)
	if got := p.Listeners.Close(func(i tunnel.ListenerInfo) bool { return i.Protocol == "mine" }); len(got) != 1 || got[0].Running || m.closed != 2 {
		t.Errorf("closed %+v", got)
	}

	c := &myConn{remote: "friend"}
	id := p.Streams.Register(c)
	if list := p.Streams.List(); len(list) != 1 || list[0].ID != id || list[0].BytesIn != 7 {
		t.Fatalf("%+v", list)
	}
	if !h.ConnManager().IsProtected(c.remote, "") {
		t.Error("its peer is not protected")
	}
	if !p.Streams.Reset(id) || c.cut == nil || c.cut.Reason != tunnel.ReasonClosed {
		t.Errorf("cut with %v", c.cut)
	}
	if !p.Streams.Deregister(id) || p.Streams.Deregister(id) || h.ConnManager().IsProtected(c.remote, "") || p.Streams.Len() != 0 {
		t.Error("it is still listed or protected")
	}
}
