package kubo

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers TXT questions on 127.0.0.1, over UDP and TCP, so that a
// test can say what a /dnsaddr stands for. It knows no other names and passes
// no question on.
type dnsServer struct {
	addr string // host:port
	mu   sync.Mutex
	txt  map[string][]string // guarded by mu; by full name with its last dot
	seen []string            // guarded by mu; names asked for
}

// startDNS serves until the test ends.
func startDNS(t *testing.T) *dnsServer {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp4", listener.Addr().String())
	if err != nil {
		listener.Close()
		t.Fatal(err)
	}
	s := &dnsServer{addr: listener.Addr().String(), txt: make(map[string][]string)}
	var running sync.WaitGroup
	running.Go(func() { s.servePackets(packets) })
	running.Go(func() { s.serveConns(listener) })
	t.Cleanup(func() {
		packets.Close()
		listener.Close()
		running.Wait()
	})
	return s
}

// stand makes /dnsaddr/name stand for the given multiaddrs.
func (s *dnsServer) stand(name string, maddrs ...string) {
	var records []string
	for _, maddr := range maddrs {
		records = append(records, "dnsaddr="+maddr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txt["_dnsaddr."+name+"."] = records
}

// asked reports whether anyone asked what /dnsaddr/name stands for.
func (s *dnsServer) asked(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.seen, "_dnsaddr."+name+".")
}

func (s *dnsServer) servePackets(packets net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		if reply, err := s.answer(buffer[:n]); err == nil {
			packets.WriteTo(reply, from)
		}
	}
}

// serveConns serves one connection after the other, and one question on each.
func (s *dnsServer) serveConns(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		s.serveConn(conn)
		conn.Close()
	}
}

func (s *dnsServer) serveConn(conn net.Conn) {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return
	}
	question := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, question); err != nil {
		return
	}
	reply, err := s.answer(question)
	if err != nil {
		return
	}
	conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// answer builds the reply to one message of one question.
func (s *dnsServer) answer(message []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil || header.Response {
		return nil, errors.Join(err, errors.New("not a question"))
	}
	name := strings.ToLower(question.Name.String())
	s.mu.Lock()
	s.seen = append(s.seen, name)
	records, known := s.txt[name]
	s.mu.Unlock()

	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
	}
	switch {
	case !known:
		reply.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeTXT:
		for _, record := range records {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{
					Name: question.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET, TTL: 1,
				},
				Body: &dnsmessage.TXTResource{TXT: []string{record}},
			})
		}
	}
	return reply.Pack()
}

func TestDNSServer(t *testing.T) {
	server := startDNS(t)
	server.stand("peer.example", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
	for _, network := range []string{"udp", "tcp"} {
		resolver := net.Resolver{
			PreferGo: true,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return net.Dial(network, server.addr)
			},
		}
		got, err := resolver.LookupTXT(t.Context(), "_dnsaddr.peer.example.")
		slices.Sort(got)
		if want := []string{"dnsaddr=/ip4/127.0.0.1/tcp/1", "dnsaddr=/ip4/127.0.0.1/tcp/2"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("over %s: %q and %v, want %q", network, got, err, want)
		}
		var missing *net.DNSError
		if _, err := resolver.LookupTXT(t.Context(), "other.example."); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("over %s, an unknown name: %v, want not found", network, err)
		}
	}
	if !server.asked("peer.example") || server.asked("nobody.example") {
		t.Errorf("the server saw %q", server.seen)
	}
}
