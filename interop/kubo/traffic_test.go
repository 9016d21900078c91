package kubo

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// trafficTimeout bounds everything one test connection does.
const trafficTimeout = 2 * time.Minute

// service is a TCP server on 127.0.0.1 for a tunnel to lead to.
type service struct {
	port  int
	conns sync.WaitGroup
	mu    sync.Mutex
	open  map[net.Conn]bool // guarded by mu
	count int               // guarded by mu; connections accepted so far
}

// serve answers every connection with handle, which owns the connection but
// for its closing. It ends with the test, which waits for the handlers.
func serve(t *testing.T, handle func(*net.TCPConn)) *service {
	t.Helper()
	return serveOn(t, freePort(t), handle)
}

// serveOn is serve on a port of the caller's choice.
func serveOn(t *testing.T, port int, handle func(*net.TCPConn)) *service {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{port: port, open: make(map[net.Conn]bool)}
	s.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open[conn] = true
			s.count++
			s.mu.Unlock()
			s.conns.Go(func() {
				conn.SetDeadline(time.Now().Add(trafficTimeout))
				handle(conn.(*net.TCPConn))
				conn.Close()
				s.mu.Lock()
				delete(s.open, conn)
				s.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for conn := range s.open {
			conn.Close()
		}
		s.mu.Unlock()
		s.conns.Wait()
	})
	return s
}

// maddr is where the service is, as a multiaddr.
func (s *service) maddr() string { return tcpMaddr(s.port) }

// accepted is how many connections have come in.
func (s *service) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func tcpMaddr(port int) string { return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port) }

// dial connects to a port of this machine, a forward's as a rule.
func dial(t *testing.T, port int) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(trafficTimeout))
	return conn.(*net.TCPConn)
}

// echo sends everything back until the other side has no more to say.
func echo(conn *net.TCPConn) { io.Copy(conn, conn) }

// checkEcho sends a few lines through port, one after the other on each of
// several connections, and expects them back.
func checkEcho(t *testing.T, port int) {
	t.Helper()
	for i := range 3 {
		conn := dial(t, port)
		for j := range 3 {
			want := fmt.Appendf(nil, "connection %d, line %d\n", i, j)
			if _, err := conn.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil {
				t.Fatalf("no echo of %q: %v", want, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("sent %q, got %q back", want, got)
			}
		}
		conn.Close()
	}
}

// noise is a stream of size bytes that depends on seed alone.
func noise(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

// sum is the SHA-256 of all that r gives, and how much that was.
func sum(r io.Reader) ([32]byte, int64, error) {
	hash := sha256.New()
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return [32]byte(hash.Sum(nil)), n, err
}

// received is what one side of a transfer got.
type received struct {
	hash [32]byte
	size int64
	err  error
}

// check compares it with noise(seed, size).
func (r received) check(t *testing.T, who string, seed byte, size int64) {
	t.Helper()
	want, _, _ := sum(noise(seed, size))
	if r.err != nil {
		t.Errorf("%s: %v after %d of %d bytes", who, r.err, r.size, size)
	}
	if r.size != size || r.hash != want {
		t.Errorf("%s: got %d bytes with SHA-256 %x, want %d with %x", who, r.size, r.hash, size, want)
	}
}

// sink is a service that reads each connection to its end and reports it.
func sink(t *testing.T) (*service, <-chan received) {
	t.Helper()
	reports := make(chan received, 16)
	return serve(t, func(conn *net.TCPConn) {
		hash, n, err := sum(conn)
		reports <- received{hash, n, err}
	}), reports
}

// source is a service that says noise(seed, size) on each connection, shuts
// its side and waits for the client to go.
func source(t *testing.T, seed byte, size int64) *service {
	t.Helper()
	return serve(t, func(conn *net.TCPConn) {
		if _, err := io.Copy(conn, noise(seed, size)); err != nil {
			return
		}
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
}

// push sends noise(seed, size) into port and closes.
func push(t *testing.T, port int, seed byte, size int64) {
	t.Helper()
	conn := dial(t, port)
	if n, err := io.Copy(conn, noise(seed, size)); err != nil {
		t.Fatalf("sending stopped after %d of %d bytes: %v", n, size, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

// pull reads port to the end.
func pull(t *testing.T, port int) received {
	t.Helper()
	hash, n, err := sum(dial(t, port))
	return received{hash, n, err}
}

// next takes one report, or fails when none comes.
func next[T any](t *testing.T, reports <-chan T) T {
	t.Helper()
	timer := time.NewTimer(trafficTimeout)
	defer timer.Stop()
	select {
	case r := <-reports:
		return r
	case <-timer.C:
		t.Fatal("the service saw no end of the stream")
		panic("not reached")
	}
}

// Sizes of the conversation of halfClose: what the client says before it shuts
// its side, and what the service answers after that.
const (
	questionSize = 100_000
	answerSize   = 1 << 20
)

// lateAnswerer is a service that speaks only once the client has said all.
func lateAnswerer(t *testing.T) (*service, <-chan received) {
	t.Helper()
	questions := make(chan received, 16)
	return serve(t, func(conn *net.TCPConn) {
		hash, n, err := sum(conn)
		questions <- received{hash, n, err}
		io.Copy(conn, noise(2, answerSize))
	}), questions
}

// halfClose asks a lateAnswerer through port and returns the answer.
func halfClose(t *testing.T, port int) received {
	t.Helper()
	conn := dial(t, port)
	if _, err := io.Copy(conn, noise(1, questionSize)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	hash, n, err := sum(conn)
	return received{hash, n, err}
}

// refused checks that a connection through port ends at once without a byte,
// and that the service behind saw nothing of it.
func refused(t *testing.T, port int, s *service) {
	t.Helper()
	before := s.accepted()
	// The end may come so soon that connecting itself reports it.
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
	if err == nil {
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(45 * time.Second))
		var n int
		if n, err = conn.Read(make([]byte, 1)); n > 0 {
			t.Error("a refused connection got an answer")
		}
	}
	if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a refused connection ends with %v, want an end or a reset", err)
	}
	if got := s.accepted(); got != before {
		t.Errorf("the service was reached %d times by a peer that is not allowed", got-before)
	}
}

// firstLines is a service that reports the first line of each connection,
// without its newline, and reads the rest.
func firstLines(t *testing.T) (*service, <-chan string) {
	t.Helper()
	lines := make(chan string, 16)
	return serve(t, func(conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if err != nil {
			line += "(" + err.Error() + ")"
		}
		lines <- strings.TrimSuffix(line, "\n")
		io.Copy(io.Discard, r)
	}), lines
}
