package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const (
	ourService   = "_kith._udp.local."
	theirService = "_p2p._udp.local." // what every other libp2p program announces
	allServices  = "_services._dns-sd._udp.local."
)

// message decodes the DNS message of a packet, from its network header on.
func message(t *testing.T, packet []byte) (m dnsmessage.Message) {
	t.Helper()
	head := 40 // IPv6
	if packet[0]>>4 == 4 {
		head = int(packet[0]&0xf) * 4
	}
	if err := m.Unpack(packet[head+8:]); err != nil {
		t.Fatalf("mDNS packet %q: %v", packet, err)
	}
	return m
}

// names are all names in a message.
func names(m dnsmessage.Message) (out []string) {
	for _, q := range m.Questions {
		out = append(out, q.Name.String())
	}
	for _, r := range slices.Concat(m.Answers, m.Authorities, m.Additionals) {
		out = append(out, r.Header.Name.String())
		if ptr, ok := r.Body.(*dnsmessage.PTRResource); ok {
			out = append(out, ptr.PTR.String())
		}
	}
	return out
}

// asker puts mDNS questions to the network of a namespace, and wants the answers
// for itself.
type asker struct{ fd int }

func newAsker(t *testing.T, ns *namespace, own string) *asker {
	t.Helper()
	a := &asker{}
	var err error
	ns.do(func() {
		if a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.SetsockoptInet4Addr(a.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, netip.MustParseAddr(own).As4())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.fd) })
	return a
}

func (a *asker) ask(t *testing.T, id uint16, name string) {
	t.Helper()
	const unicast = 1 << 15 // RFC 6762, section 5.4
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET | unicast},
	}}
	packed, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(a.fd, packed, 0, &unix.SockaddrInet4{Port: mdnsPort, Addr: [4]byte{224, 0, 0, 251}}); err != nil {
		t.Fatal(err)
	}
}

// answers takes those that have come.
func (a *asker) answers(t *testing.T) (out []dnsmessage.Message) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(a.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return out
		}
		var m dnsmessage.Message
		if err == nil {
			err = m.Unpack(buf[:n])
		}
		if err != nil {
			t.Fatalf("an answer: %v", err)
		}
		out = append(out, m)
	}
}

// TestMDNSName: a node announces itself and looks for others under kith's own
// service name, and to who asks for any other libp2p program it does not answer.
func TestMDNSName(t *testing.T) {
	a, b := twoMachines(t)
	w := newTap(t, a)
	node := upIn(t, a, "the node", shortDir(t, "kith-"))

	var heard []dnsmessage.Message
	listen := func() {
		for _, packet := range w.seen(t) {
			heard = append(heard, message(t, packet))
		}
	}
	eventually(t, "the node looks for others, and announces itself", func() error {
		listen()
		asks := slices.ContainsFunc(heard, func(m dnsmessage.Message) bool {
			return !m.Response && slices.ContainsFunc(m.Questions, func(q dnsmessage.Question) bool { return q.Name.String() == ourService })
		})
		announces := slices.ContainsFunc(heard, func(m dnsmessage.Message) bool {
			return m.Response && slices.ContainsFunc(m.Answers, func(r dnsmessage.Resource) bool {
				ptr, ok := r.Body.(*dnsmessage.PTRResource)
				return ok && r.Header.Name.String() == ourService && strings.HasSuffix(ptr.PTR.String(), "."+ourService)
			})
		})
		if !asks || !announces {
			return fmt.Errorf("of %d packets one asks: %t, one announces: %t", len(heard), asks, announces)
		}
		return nil
	})
	for _, m := range heard {
		for _, name := range names(m) {
			if strings.HasSuffix(name, theirService) {
				t.Errorf("the node said %q", name)
			}
		}
	}

	// The node answers in the order in which it is asked: when a question that came
	// later is answered, the ones before it would be.
	own := newAsker(t, b, addressB)
	const theirs, all, ours = 1, 2, 3
	var answers []dnsmessage.Message
	answered := func(id uint16) bool {
		return slices.ContainsFunc(answers, func(m dnsmessage.Message) bool { return m.ID == id })
	}
	last := time.Time{}
	eventually(t, "no answer about "+ourService, func() error {
		answers = append(answers, own.answers(t)...)
		if answered(all) && answered(ours) {
			return nil
		}
		if time.Since(last) > time.Second { // again: a packet may be lost
			own.ask(t, theirs, theirService)
			own.ask(t, all, allServices)
			own.ask(t, ours, ourService)
			last = time.Now()
		}
		return fmt.Errorf("%d answers", len(answers))
	})
	for _, m := range answers {
		if m.ID == theirs {
			t.Errorf("who looks for %s is answered %q", theirService, names(m))
		}
		if m.ID != theirs && !slices.Contains(names(m), ourService) || slices.ContainsFunc(names(m), func(n string) bool { return strings.HasSuffix(n, theirService) }) {
			t.Errorf("the node answers with %q", names(m))
		}
	}
	node.end(t)
}
