package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	mdnsPort = 5353
	addressA = "10.77.0.1"
	addressB = "10.77.0.2"
)

// twoMachines makes two network namespaces that a veth pair joins: the smallest
// network that carries multicast. Nothing of it is visible outside.
func twoMachines(t *testing.T) (a, b *namespace) {
	t.Helper()
	ip := program(t, "ip")
	a, b = newNamespace(t, unix.CLONE_NEWNET), newNamespace(t, unix.CLONE_NEWNET)
	must(t, a, ip, "link", "add", "kith0", "type", "veth", "peer", "name", "kith1", "netns", strconv.Itoa(b.tid))
	for _, m := range []struct {
		ns                 *namespace
		link, own, gateway string
	}{{a, "kith0", addressA, addressB}, {b, "kith1", addressB, addressA}} {
		must(t, m.ns, ip, "link", "set", "lo", "up")
		must(t, m.ns, ip, "address", "add", m.own+"/24", "dev", m.link)
		must(t, m.ns, ip, "link", "set", m.link, "up", "multicast", "on")
	}
	return a, b
}

// tap sees every mDNS packet on every interface of a namespace, in and out.
type tap struct{ fd int }

// mdnsFilter passes UDP over IPv4 and IPv6 from or to the mDNS port. It sees
// packets from the network header on.
var mdnsFilter = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtProto},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 9},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 15},
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 13},
	bpf.LoadMemShift{Off: 0}, // length of the IPv4 header
	bpf.LoadIndirect{Off: 0, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: mdnsPort, SkipTrue: 9},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: mdnsPort, SkipTrue: 7},
	bpf.RetConstant{Val: 0},
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 40, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: mdnsPort, SkipTrue: 2},
	bpf.LoadAbsolute{Off: 42, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: mdnsPort, SkipFalse: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

func newTap(t *testing.T, ns *namespace) *tap {
	t.Helper()
	raw, err := bpf.Assemble(mdnsFilter)
	if err != nil {
		t.Fatal(err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	w := &tap{}
	ns.do(func() {
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all); err == nil {
			err = unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
		}
	})
	if err != nil {
		t.Fatalf("cannot watch the network: %v", err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// seen takes the packets since the last call. It fails the test when some were
// missed.
func (w *tap) seen(t *testing.T) (packets [][]byte) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatalf("watching the network: %v", err)
		}
		packets = append(packets, bytes.Clone(buf[:n]))
	}
	if stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || stats.Drops != 0 {
		t.Fatalf("watching the network missed packets: %+v, %v", stats, err)
	}
	return packets
}

// peer is one row of `kith peers --json`.
type peer struct {
	PeerID, Source, Address string
	Connected               bool
}

// TestMDNS: two nodes, as `kith up` makes them, find each other on a network
// with nothing but a cable, and one uses the other's service by its bare ID.
func TestMDNS(t *testing.T) {
	a, b := twoMachines(t)
	first := upIn(t, a, "first", shortDir(t, "kith-"))
	began := time.Now()
	second := upIn(t, b, "second", shortDir(t, "kith-"))
	for _, n := range []struct{ node, other *node }{{second, first}, {first, second}} {
		eventually(t, n.node.name+" has not found the other", func() error {
			var answer struct{ Peers []peer }
			n.node.ask(t, &answer, "peers")
			if !slices.ContainsFunc(answer.Peers, func(p peer) bool { return p.PeerID == n.other.id && p.Source == "mdns" }) {
				return fmt.Errorf("peers: %+v", answer.Peers)
			}
			return nil
		})
		// They are peers by now, and each has told the other where it is: that
		// does not hide how it was found.
		eventually(t, n.node.name+" does not say how it found the other", func() error {
			var book struct {
				Peers []struct {
					PeerID    string
					Connected bool
					Addresses []struct{ Source string }
				}
			}
			n.node.ask(t, &book, "book")
			for _, p := range book.Peers {
				if p.PeerID == n.other.id && p.Connected && slices.Contains(p.Addresses, struct{ Source string }{"mdns"}) {
					return nil
				}
			}
			return fmt.Errorf("book: %+v", book.Peers)
		})
		t.Logf("%s knows the other %v after the second came up", n.node.name, time.Since(began).Round(time.Millisecond))
	}

	// A service on the first machine's own loopback.
	var ln net.Listener
	var err error
	a.do(func() { ln, err = net.Listen("tcp", "127.0.0.1:8080") })
	if err != nil {
		t.Fatal(err)
	}
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello from "+addressA+"\n")
	})}
	served := make(chan error, 1)
	go func() { served <- site.Serve(ln) }()
	t.Cleanup(func() {
		site.Close()
		<-served
	})

	first.do(t, "expose", "8080", "--name", "web", "--allow", second.id)
	second.do(t, "connect", first.id+"/web", "9090", "--check")
	if r := curl(t, b, "http://127.0.0.1:9090/"); string(r.body) != "hello from "+addressA+"\n" {
		t.Error(r)
	}
	var answer struct{ Peers []peer }
	second.ask(t, &answer, "peers")
	if !slices.ContainsFunc(answer.Peers, func(p peer) bool {
		return p.PeerID == first.id && p.Connected && bytes.Contains([]byte(p.Address), []byte("/"+addressA+"/"))
	}) {
		t.Errorf("the way to the first is not its address on the network: %+v", answer.Peers)
	}
}

// TestUpSaysThatItLooksForPeers: the first words of a node that looks for others
// are not that it does not.
func TestUpSaysThatItLooksForPeers(t *testing.T) {
	a, _ := twoMachines(t)
	cmd := exec.Command(kithBinary, "--home", shortDir(t, "kith-"), "up")
	p := start(t, a, "kith up", syscall.SIGTERM, cmd)
	p.wait(t, func() error {
		if out := p.output(); !strings.Contains(out, "Next, in another terminal") {
			return errors.New(out)
		}
		return nil
	})
	if out := p.output(); !strings.Contains(out, "mDNS       on") {
		t.Errorf("kith up, where mDNS works, says\n%s", out)
	}
}

// TestNoMDNS: nodes that only this machine can reach, and kith try, say nothing
// to the network.
func TestNoMDNS(t *testing.T) {
	a, b := twoMachines(t)
	taps := []*tap{newTap(t, a), newTap(t, b)}

	// First the proof that the taps see mDNS when there is some, on both
	// machines, and how long it takes.
	began := time.Now()
	loud := upIn(t, a, "loud", shortDir(t, "kith-"))
	for _, w := range taps {
		eventually(t, "the tap is blind", func() error {
			if len(w.seen(t)) == 0 {
				return errors.New("no mDNS from a node that looks for others")
			}
			return nil
		})
	}
	quiet := max(time.Second, 3*time.Since(began)) // how long the others are watched
	loud.end(t)

	for name, args := range map[string][]string{
		"local":    {"--local"},
		"loopback": {"--listen", "/ip4/127.0.0.1/tcp/4001", "--listen", "/ip4/127.0.0.1/udp/4001/quic-v1"},
		"no-mdns":  {"--no-mdns"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, w := range taps {
				w.seen(t) // what was before
			}
			quietFrom := time.Now()
			n := upIn(t, a, name, shortDir(t, "kith-"), args...)
			silent(t, taps, quietFrom.Add(quiet))
			var status struct{ MDNS bool }
			n.ask(t, &status, "status")
			if status.MDNS {
				t.Errorf("the status says that mDNS is on")
			}
			n.end(t)
			silent(t, taps, time.Now())
		})
	}
	t.Run("try", func(t *testing.T) {
		for _, w := range taps {
			w.seen(t)
		}
		quietFrom := time.Now()
		must(t, a, kithBinary, "--home", filepath.Join(t.TempDir(), "unused"), "try", "--size", "16MiB")
		t.Logf("kith try took %v", time.Since(quietFrom).Round(time.Millisecond))
		silent(t, taps, quietFrom.Add(quiet))
	})
}

// silent fails the test when any mDNS is seen until then.
func silent(t *testing.T, taps []*tap, until time.Time) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for i, w := range taps {
			if packets := w.seen(t); len(packets) > 0 {
				t.Fatalf("machine %d: %d mDNS packets, the first is %q", i, len(packets), packets[0])
			}
		}
		if !time.Now().Before(until) {
			return
		}
		<-tick.C
	}
}
