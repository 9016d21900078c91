package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// afterEOF is what the service sends once its client has shut its side.
	afterEOF = 1 << 20
	// patternSize is odd, so that a lost or doubled block of any usual size
	// shifts what follows.
	patternSize = 1<<20 + 7
)

// The bulk service speaks a byte of command first:
//
//	'S'             count and check what follows up to EOF, then answer 8 bytes, the count (big endian)
//	'R' + 8 bytes   send that many bytes of the pattern, then close
//	'H'             read up to EOF, then send afterEOF bytes of the pattern
type bulkService struct {
	ln      net.Listener
	pattern []byte // patternSize random bytes, twice

	wg sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// serveBulk starts the service on a free port of 127.0.0.1.
func serveBulk() (*bulkService, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bulkService{ln: ln, pattern: make([]byte, 2*patternSize), conns: make(map[net.Conn]bool)}
	rng := rand.NewChaCha8([32]byte{'k', 'i', 't', 'h'})
	rng.Read(b.pattern[:patternSize])
	copy(b.pattern[patternSize:], b.pattern)
	b.wg.Go(b.accept)
	return b, nil
}

func (b *bulkService) addr() string { return b.ln.Addr().String() }

func (b *bulkService) close() error {
	err := b.ln.Close()
	b.mu.Lock()
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
	return err
}

func (b *bulkService) accept() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[c] = true
		b.mu.Unlock()
		b.wg.Go(func() {
			b.serve(c.(*net.TCPConn))
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	}
}

// serve answers one command. A fault ends the connection with a reset, which
// the client reports.
func (b *bulkService) serve(c *net.TCPConn) {
	defer c.Close()
	if err := b.answer(c); err != nil {
		c.SetLinger(0)
	}
}

func (b *bulkService) answer(c *net.TCPConn) error {
	var command [1]byte
	if _, err := io.ReadFull(c, command[:]); err != nil {
		return err
	}
	switch command[0] {
	case 'S':
		n, err := b.check(c, nil)
		if err != nil {
			return err
		}
		return binary.Write(c, binary.BigEndian, n)
	case 'R':
		var size int64
		if err := binary.Read(c, binary.BigEndian, &size); err != nil {
			return err
		}
		return b.write(c, size, nil)
	case 'H':
		if _, err := b.check(c, nil); err != nil {
			return err
		}
		return b.write(c, afterEOF, nil)
	}
	return errors.New("unknown command")
}

// at returns up to a quarter MiB of the endless pattern from offset on.
func (b *bulkService) at(offset int64, size int64) []byte {
	i := int(offset % patternSize)
	return b.pattern[i : i+int(min(size, 256<<10))]
}

// write sends size bytes of the pattern.
func (b *bulkService) write(w io.Writer, size int64, sent func(int64)) error {
	for offset := int64(0); offset < size; {
		n, err := w.Write(b.at(offset, size-offset))
		if err != nil {
			return err
		}
		if offset += int64(n); sent != nil {
			sent(offset)
		}
	}
	return nil
}

// check reads to EOF, compares with the pattern and returns the count.
func (b *bulkService) check(r io.Reader, got func(int64)) (int64, error) {
	buf := make([]byte, 256<<10)
	for offset := int64(0); ; {
		n, err := r.Read(buf)
		if want := b.at(offset, int64(n)); !bytes.Equal(buf[:n], want) {
			for i := range want {
				if buf[i] != want[i] {
					return offset, fmt.Errorf("another byte than was sent came at offset %d", offset+int64(i))
				}
			}
		}
		offset += int64(n)
		if got != nil {
			got(offset)
		}
		switch {
		case err == io.EOF:
			return offset, nil
		case err != nil:
			return offset, fmt.Errorf("after %d bytes: %w", offset, err)
		}
	}
}

// rate says how fast size bytes went.
func rate(size int64, took time.Duration) float64 {
	return float64(size) / (1 << 20) / took.Seconds()
}

func (t *trial) ofSize(n int64) { t.steps.progress("%s", bytesText(uint64(n))) }

// send sends size bytes to the service, which checks them.
func (t *trial) send(ctx context.Context) (string, error) {
	c, done, err := dialLocal(ctx, t.bulkLocal)
	if err != nil {
		return "", err
	}
	defer done()
	start := time.Now()
	if _, err := c.Write([]byte{'S'}); err != nil {
		return "", err
	}
	if err := t.bulk.write(c, t.size, t.ofSize); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	var count int64
	if err := binary.Read(c, binary.BigEndian, &count); err != nil {
		return "", fmt.Errorf("the other end did not confirm: %w", err)
	}
	took := time.Since(start)
	if count != t.size {
		return "", fmt.Errorf("%d of %d bytes arrived", count, t.size)
	}
	t.steps.report.Send = rate(t.size, took)
	return fmt.Sprintf("%.0f MiB/s, all bytes the same", t.steps.report.Send), nil
}

// receive has the service send size bytes and checks them.
func (t *trial) receive(ctx context.Context) (string, error) {
	c, done, err := dialLocal(ctx, t.bulkLocal)
	if err != nil {
		return "", err
	}
	defer done()
	start := time.Now()
	if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{'R'}, uint64(t.size))); err != nil {
		return "", err
	}
	count, err := t.bulk.check(c, t.ofSize)
	if err != nil {
		return "", err
	}
	took := time.Since(start)
	if count != t.size {
		return "", fmt.Errorf("%d of %d bytes came", count, t.size)
	}
	t.steps.report.Receive = rate(t.size, took)
	return fmt.Sprintf("%.0f MiB/s, all bytes the same", t.steps.report.Receive), nil
}

// halfClose sends some, shuts the write side, and reads what the service only
// sends after that.
func (t *trial) halfClose(ctx context.Context) (string, error) {
	c, done, err := dialLocal(ctx, t.bulkLocal)
	if err != nil {
		return "", err
	}
	defer done()
	if _, err := c.Write([]byte{'H'}); err != nil {
		return "", err
	}
	if err := t.bulk.write(c, 100_000, nil); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	count, err := t.bulk.check(c, nil)
	switch {
	case err != nil:
		return "", err
	case count != afterEOF:
		return "", fmt.Errorf("%d of %d bytes came after the half-close", count, afterEOF)
	}
	return "all of it came, then EOF", nil
}
