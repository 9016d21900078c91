package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	corehost "github.com/libp2p/go-libp2p/core/host"
)

func TestLimitedConn(t *testing.T) {
	overNetworks(t, func(t *testing.T, a, b corehost.Host) {
		c, far := pipe(t, a, b)
		const limit = 1000
		lim := NewLimitedConn(c, limit).(*LimitedConn)
		for _, size := range []int{0, 1, limit} {
			if n, err := lim.Write(make([]byte, size)); n != size || err != nil {
				t.Errorf("write of %d: %d, %v", size, n, err)
			}
		}
		n, err := lim.Write(make([]byte, limit+1))
		if se, ok := errors.AsType[*SizeError](err); n != 0 || !ok || se.Size != limit+1 || se.Max != limit {
			t.Errorf("write above the limit: %d, %v", n, err)
		}
		if err := lim.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(far); len(got) != 1+limit || err != nil {
			t.Errorf("%d bytes arrived, %v", len(got), err)
		}
		far.Write(make([]byte, 10*limit))
		far.CloseWrite()
		total, buf := 0, make([]byte, 5*limit)
		for {
			n, err := lim.Read(buf)
			if total += n; n > limit {
				t.Errorf("read %d at once", n)
			}
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		if total != 10*limit {
			t.Errorf("read %d", total)
		}
		if id, ok := PeerOf(lim); !ok || id != b.ID() || lim.RemotePeer() != b.ID() {
			t.Errorf("PeerOf: %v", id)
		}
		if err := lim.CloseRead(); err != nil {
			t.Error(err)
		}
		if err := lim.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestLimitedConnOverAnyConn(t *testing.T) {
	x, y := net.Pipe()
	defer x.Close()
	defer y.Close()
	lim := NewLimitedConn(x, 4).(*LimitedConn)
	if err := lim.CloseRead(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := lim.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if id, ok := PeerOf(lim); ok || id != "" {
		t.Errorf("a pipe has no peer: %v", id)
	}
	if _, ok := PeerOf(nil); ok {
		t.Error("nil has no peer")
	}
	go y.Write([]byte("abcdefgh"))
	buf := make([]byte, 8)
	if n, err := lim.Read(buf); n != 4 || err != nil || !bytes.Equal(buf[:4], []byte("abcd")) {
		t.Errorf("%d, %v", n, err)
	}
	for _, size := range []int{0, -1} {
		shut := NewLimitedConn(x, size)
		if _, err := shut.Write([]byte("x")); err == nil {
			t.Error("write through a closed limit")
		}
		if _, err := shut.Read(buf); err == nil {
			t.Error("read through a closed limit")
		}
	}
}
