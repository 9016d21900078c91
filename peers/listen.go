package peers

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// bind is one call of Transport.Listen, which all who want the address wait for.
type bind struct {
	done chan struct{} // closed at the end; then l and err are set
	l    *listener
	err  error
}

func (b *book) Listen(maddr ma.Multiaddr) (manet.Listener, error) {
	if err := b.usable(maddr); err != nil {
		return nil, err
	}
	key := listenKey(maddr)
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, ErrClosed
		}
		l, w := b.listeners[key], b.binds[key]
		var own *bind
		if l == nil && w == nil {
			own = &bind{done: make(chan struct{})}
			if key != "" {
				b.binds[key] = own
			}
			b.wg.Add(1)
		}
		b.mu.Unlock()
		switch {
		case own != nil:
			b.bind(key, maddr, own)
			b.wg.Done()
			return own.result()
		case w != nil:
			<-w.done
			return w.result()
		case !l.closing.Load():
			return l, nil
		}
		<-l.closed // then it is out of the book
	}
}

func (w *bind) result() (manet.Listener, error) {
	if w.err != nil {
		return nil, w.err
	}
	return w.l, nil
}

// listenKey is how a listener is found again: by the address's bytes, or "" for port 0, which is another port each
// time.
func listenKey(maddr ma.Multiaddr) string {
	for i := range maddr {
		if c := maddr[i].Code(); (c == ma.P_TCP || c == ma.P_UDP) && maddr[i].Value() == "0" {
			return ""
		}
	}
	return string(maddr.Bytes())
}

// bind binds and settles who owns the result.
func (b *book) bind(key string, maddr ma.Multiaddr, w *bind) {
	ml, err := b.Transport.Listen(maddr)
	if err == nil {
		w.l = &listener{Listener: ml, b: b, key: key, closed: make(chan struct{})}
	} else {
		w.err = fmt.Errorf("peers: listen on %s: %w", maddr, err)
	}
	b.mu.Lock()
	if key != "" {
		delete(b.binds, key)
	}
	late := b.closed
	switch {
	case late || err != nil:
	case key == "":
		b.loose[w.l] = struct{}{}
	default:
		b.listeners[key] = w.l
	}
	b.mu.Unlock()
	if late {
		if err == nil {
			_ = ml.Close()
		}
		w.l, w.err = nil, ErrClosed
	}
	close(w.done)
}

// listener is a listener of the transport that leaves the book when it is closed. All methods may be called
// concurrently.
type listener struct {
	manet.Listener
	b   *book
	key string // "": in book.loose

	once    sync.Once
	closing atomic.Bool   // Close has begun, or Accept has said that it is over
	closed  chan struct{} // closed when the transport's Close has returned and the book has forgotten it
	err     error         // of the transport's Close; set before closed
}

// Accept returns the next connection, or net.ErrClosed in the chain after Close.
func (l *listener) Accept() (manet.Conn, error) {
	c, err := l.Listener.Accept()
	if errors.Is(err, net.ErrClosed) && !l.closing.Load() {
		_ = l.Close() // it ended by itself, such as with its libp2p host
	}
	return c, err
}

// Close closes the listener for all who have it. Further calls wait for the first and return the same.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.closing.Store(true)
		l.err = closeConn(l.Listener)
		l.b.mu.Lock()
		delete(l.b.loose, l)
		if l.b.listeners[l.key] == l {
			delete(l.b.listeners, l.key)
		}
		l.b.mu.Unlock()
		close(l.closed)
	})
	return l.err
}
