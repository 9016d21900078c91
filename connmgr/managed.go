package connmgr

import (
	"context"
	"net"
)

// managedConn is a connection of a manager in its user's hands: Close tells the
// manager. NetConn gives access to what is under it.
type managedConn struct {
	net.Conn
	end func() error
}

// Close closes the connection and gives its place back, once.
func (c *managedConn) Close() error { return c.end() }

// NetConn is the connection that was dialled or accepted, such as a
// *net.TCPConn, as in crypto/tls. It must not be closed.
func (c *managedConn) NetConn() net.Conn {
	if a, ok := c.Conn.(admitted); ok {
		return a.Conn
	}
	return c.Conn
}

// admitted marks what ConnManager.Admit let in.
type admitted struct{ net.Conn }

func isAdmitted(c net.Conn) bool {
	_, ok := c.(admitted)
	return ok
}

// admit is ConnManager.Admit.
func admit(ctx context.Context, e *Engine[target, net.Conn], conn net.Conn) (net.Conn, bool) {
	if isNil(conn) {
		return nil, false
	}
	if ctx.Err() != nil {
		conn.Close()
		return nil, false
	}
	c, err := e.Admit(ctx, admitted{conn})
	if err != nil {
		return nil, false
	}
	return &managedConn{c.Raw(), c.Close}, true
}
