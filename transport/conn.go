package transport

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// watch is the part of a connection that knows whether it has ended.
type watch struct{ ended atomic.Bool }

// Closed implements Connection.
func (w *watch) Closed() bool { return w.ended.Load() }

// note looks at what a Read, a Write or the like returned. A timeout is a
// deadline that was set on the connection, except the kernel's own.
func (w *watch) note(err error) {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, syscall.ETIMEDOUT) {
		return
	}
	w.ended.Store(true)
}

// newConn makes a Connection of a connection to a place. It has all methods of *net.TCPConn or *net.UnixConn if c is
// one, and NetConn, which returns c, as that of tls.Conn does; what is done to c directly, Closed does not see.
func newConn(c net.Conn) Connection {
	switch c := c.(type) {
	case *net.TCPConn:
		return &tcpConn{TCPConn: c}
	case *net.UnixConn:
		return &unixConn{UnixConn: c}
	}
	return &plainConn{Conn: c}
}

// multiaddrOf returns a net.Addr as a multiaddr; nil if it has none, as that of an unnamed unix socket.
func multiaddrOf(a net.Addr) ma.Multiaddr {
	if a == nil {
		return nil
	}
	if text := a.String(); a.Network() == "unix" && (text == "" || text == "@") {
		return nil
	}
	m, err := manet.FromNetAddr(a)
	if err != nil {
		return nil
	}
	return m
}

// tcpConn is a TCP connection. Copies between it and another, or a unix socket, are still spliced by the kernel.
type tcpConn struct {
	*net.TCPConn
	watch
}

func (c *tcpConn) NetConn() net.Conn             { return c.TCPConn }
func (c *tcpConn) LocalMultiaddr() ma.Multiaddr  { return multiaddrOf(c.LocalAddr()) }
func (c *tcpConn) RemoteMultiaddr() ma.Multiaddr { return multiaddrOf(c.RemoteAddr()) }

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.note(err)
	return n, err
}

func (c *tcpConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.note(err)
	return n, err
}

func (c *tcpConn) Close() error {
	c.ended.Store(true)
	return c.TCPConn.Close()
}

// ReadFrom implements io.ReaderFrom.
func (c *tcpConn) ReadFrom(r io.Reader) (int64, error) {
	var from *watch
	switch src := r.(type) {
	case *tcpConn:
		r, from = src.TCPConn, &src.watch
	case *unixConn:
		r, from = src.UnixConn, &src.watch
	}
	n, err := c.TCPConn.ReadFrom(r)
	noteCopy(err, from, &c.watch)
	return n, err
}

// WriteTo implements io.WriterTo.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	var to *watch
	if dst, ok := w.(*unixConn); ok {
		w, to = dst.UnixConn, &dst.watch
	}
	n, err := c.TCPConn.WriteTo(w)
	noteCopy(err, &c.watch, to)
	return n, err
}

// noteCopy looks at what a copy between two connections returned; nil for one that is not ours. The net package says
// which side failed, except when the kernel did the copying: that is then held against both.
func noteCopy(err error, from, to *watch) {
	read, write := false, false
	if err == nil {
		read, err = true, io.EOF // it ended because there was no more
	}
	for inner := err; inner != nil && !read && !write; {
		switch e := inner.(type) {
		case *net.OpError:
			read, write, inner = e.Op == "read", e.Op == "write", e.Err
		case *os.SyscallError:
			read, write = true, true
		default:
			inner = nil // of something that is no connection
		}
	}
	if read && from != nil {
		from.note(err)
	}
	if write && to != nil {
		to.note(err)
	}
}

// unixConn is a connection over a unix socket.
type unixConn struct {
	*net.UnixConn
	watch
}

func (c *unixConn) NetConn() net.Conn             { return c.UnixConn }
func (c *unixConn) LocalMultiaddr() ma.Multiaddr  { return multiaddrOf(c.LocalAddr()) }
func (c *unixConn) RemoteMultiaddr() ma.Multiaddr { return multiaddrOf(c.RemoteAddr()) }

func (c *unixConn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	c.note(err)
	return n, err
}

func (c *unixConn) Write(p []byte) (int, error) {
	n, err := c.UnixConn.Write(p)
	c.note(err)
	return n, err
}

func (c *unixConn) Close() error {
	c.ended.Store(true)
	return c.UnixConn.Close()
}

// plainConn is any other connection.
type plainConn struct {
	net.Conn
	watch
}

func (c *plainConn) NetConn() net.Conn             { return c.Conn }
func (c *plainConn) LocalMultiaddr() ma.Multiaddr  { return multiaddrOf(c.LocalAddr()) }
func (c *plainConn) RemoteMultiaddr() ma.Multiaddr { return multiaddrOf(c.RemoteAddr()) }

func (c *plainConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note(err)
	return n, err
}

func (c *plainConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.note(err)
	return n, err
}

func (c *plainConn) Close() error {
	c.ended.Store(true)
	return c.Conn.Close()
}
