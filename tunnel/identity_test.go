package tunnel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// The target learns who calls, before the caller's first byte.
func TestTargetLearnsThePeer(t *testing.T) {
	for _, tr := range transports {
		for _, name := range []string{"who", "/x/who"} {
			t.Run(tr.name+name, func(t *testing.T) {
				a, b := newNode(t, tr.listen), newNode(t)
				target := service(t, func(c net.Conn) {
					line, _ := bufio.NewReader(c).ReadString('\n')
					io.WriteString(c, "seen "+line)
				})
				expose(t, a, name, target, AllowAny(), func(c *ServiceConfig) { c.ReportPeerID = true })
				got, err := io.ReadAll(dial(t, forwardTo(t, b, a, name)))
				if err != nil || string(got) != "seen "+b.id.String()+"\n" {
					t.Fatalf("%q, %v", got, err)
				}
			})
		}
	}
}

func TestProxyProtocolOverTunnel(t *testing.T) {
	a, b := newNode(t, overTCP), newNode(t)
	target := service(t, func(c net.Conn) { // answers with what it got until EOF
		got, _ := io.ReadAll(c)
		c.Write(got)
	})
	for version := 1; version <= 2; version++ {
		name := fmt.Sprint("v", version)
		expose(t, a, name, target, AllowAny(), func(c *ServiceConfig) { c.ProxyProtocol = version })
		c := dial(t, forwardTo(t, b, a, name))
		io.WriteString(c, "payload")
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		header, ok := bytes.CutSuffix(got, []byte("payload"))
		if !ok {
			t.Fatalf("v%d: the payload is lost: %q", version, got)
		}
		switch version {
		case 1:
			var src, dst string
			var sport, dport int
			if n, err := fmt.Sscanf(string(header), "PROXY TCP4 %s %s %d %d\r\n", &src, &dst, &sport, &dport); n != 4 || err != nil || src != "127.0.0.1" || sport == 0 || fmt.Sprint(dport) != target.String()[strings.LastIndex(target.String(), "/")+1:] {
				t.Errorf("v1: %q", header)
			}
		case 2:
			if !bytes.HasPrefix(header, append(bytes.Clone(proxyV2Signature), 0x21, 0x11)) {
				t.Fatalf("v2: %x", header)
			}
			if n := binary.BigEndian.Uint16(header[14:]); int(n) != len(header)-16 {
				t.Errorf("v2: says %d bytes follow, %d do", n, len(header)-16)
			}
			tlv := header[16+12:]
			if tlv[0] != 0xE0 || int(binary.BigEndian.Uint16(tlv[1:])) != len(tlv)-3 || string(tlv[3:]) != b.id.String() {
				t.Errorf("v2: peer ID TLV %q", tlv)
			}
		}
	}
}

func TestProxyHeaders(t *testing.T) {
	v4, v4b := netip.MustParseAddrPort("192.0.2.1:1000"), netip.MustParseAddrPort("192.0.2.2:2000")
	v6, v6b := netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.MustParseAddrPort("[2001:db8::2]:2000")
	for _, c := range []struct {
		src, dst netip.AddrPort
		v1       string
		family   byte
		addrs    int
	}{
		{v4, v4b, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n", 0x11, 12},
		{v6, v6b, "PROXY TCP6 2001:db8::1 2001:db8::2 1000 2000\r\n", 0x21, 36},
		{v6, v4, "PROXY UNKNOWN\r\n", 0x00, 0},
		{netip.AddrPort{}, v4, "PROXY UNKNOWN\r\n", 0x00, 0},
		{v4, netip.AddrPort{}, "PROXY UNKNOWN\r\n", 0x00, 0},
	} {
		if got := string(proxyV1(c.src, c.dst)); got != c.v1 {
			t.Errorf("v1 of %v, %v: %q", c.src, c.dst, got)
		}
		b := proxyV2(c.src, c.dst, "id")
		if b[12] != 0x21 || b[13] != c.family || len(b) != 16+c.addrs+3+2 || int(binary.BigEndian.Uint16(b[14:])) != len(b)-16 {
			t.Errorf("v2 of %v, %v: %x", c.src, c.dst, b)
		}
	}
}
