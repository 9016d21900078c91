package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The traffic that every side carries: whoever connects says with the first
// byte what it wants. push and pull are followed by the number of bytes and
// the size of each write, and are answered with one byte when the other end is
// ready, so that opening the connection is not part of a transfer's time.
const (
	push = 'w' // the client writes; the service answers when it has it all
	pull = 'r' // the service writes
	echo = 'e' // this byte and every later one comes back
)

// readSize is the buffer that transfers are read with.
const readSize = 256 << 10

// conn is what all kinds of connections have.
type conn interface {
	io.ReadWriteCloser
}

// dialFunc opens a connection to the service.
type dialFunc func(ctx context.Context) (conn, error)

// serve does what the client of one connection wants, and closes it.
func serve(c conn) error {
	defer c.Close()
	var head [13]byte
	if _, err := io.ReadFull(c, head[:1]); err != nil {
		return err
	}
	if head[0] == echo {
		return echoBytes(c, head[:1])
	}
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return err
	}
	size, chunk := int(binary.BigEndian.Uint64(head[1:9])), int(binary.BigEndian.Uint32(head[9:]))
	if chunk <= 0 || chunk > 1<<20 {
		return fmt.Errorf("bad chunk size %d", chunk)
	}
	var err error
	switch head[0] {
	case push:
		buf := make([]byte, readSize)
		if _, err = c.Write(head[:1]); err == nil {
			err = readAll(c, buf, size)
		}
		if err == nil {
			_, err = c.Write(head[:1])
		}
	case pull:
		buf := make([]byte, chunk)
		if _, err = c.Write(head[:1]); err == nil {
			err = writeAll(c, buf, size)
		}
	default:
		err = fmt.Errorf("nothing is called %q", head[0])
	}
	if err == nil {
		// The client closes first, after the last byte reached it.
		_, err = c.Read(head[:1])
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

func echoBytes(c conn, b []byte) error {
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
}

// transfer sends size bytes one way over a new connection, chunk bytes a
// write, and returns the throughput in MiB/s.
func transfer(ctx context.Context, dial dialFunc, way byte, size, chunk int) (float64, error) {
	c, err := dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	head := binary.BigEndian.AppendUint64([]byte{way}, uint64(size))
	head = binary.BigEndian.AppendUint32(head, uint32(chunk))
	if _, err := c.Write(head); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, head[:1]); err != nil {
		return 0, fmt.Errorf("the service is not ready: %w", err)
	}
	buf := make([]byte, max(chunk, readSize))
	start := time.Now()
	if way == push {
		if err = writeAll(c, buf[:chunk], size); err == nil {
			_, err = io.ReadFull(c, head[:1])
		}
	} else {
		err = readAll(c, buf, size)
	}
	if err != nil {
		return 0, fmt.Errorf("transfer of %d MiB: %w", size>>20, err)
	}
	return float64(size) / (1 << 20) / time.Since(start).Seconds(), nil
}

func writeAll(w io.Writer, buf []byte, size int) error {
	for size > 0 {
		n, err := w.Write(buf[:min(len(buf), size)])
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

func readAll(r io.Reader, buf []byte, size int) error {
	for size > 0 {
		n, err := r.Read(buf[:min(len(buf), size)])
		size -= n
		if err != nil && size > 0 {
			return fmt.Errorf("%d bytes short: %w", size, err)
		}
	}
	return nil
}

// once opens a connection, sends a byte there and back, and closes it.
func once(ctx context.Context, dial dialFunc) (time.Duration, error) {
	start := time.Now()
	c, err := dial(ctx)
	if err != nil {
		return 0, err
	}
	err = ping(c)
	c.Close()
	return time.Since(start), err
}

// ping sends a byte there and back.
func ping(c conn) error {
	b := [1]byte{echo}
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return err
	}
	if b[0] != echo {
		return fmt.Errorf("%q came back", b[0])
	}
	return nil
}

// service serves the traffic on a loopback TCP port.
type service struct {
	l  net.Listener
	wg sync.WaitGroup
}

func newService() (*service, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{l: l}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { serve(c) }) // the client reports what goes wrong
		}
	})
	return s, nil
}

func (s *service) addr() string { return s.l.Addr().String() }

// close waits for connections to end: close the clients and tunnels first.
func (s *service) close() error {
	err := s.l.Close()
	s.wg.Wait()
	return err
}

// dialTCP opens connections to a loopback port.
func dialTCP(addr string) dialFunc {
	return func(ctx context.Context) (conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", addr)
	}
}
