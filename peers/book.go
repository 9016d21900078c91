package peers

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/kith-p2p/kith/transport"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/grpc"
)

// book implements Interface. mu guards the tables and closed, for a few map operations at a time: it is never held
// while dialling, binding, closing or making a channel.
type book struct {
	Params
	self     self
	grpcOpts []grpc.DialOption // the part that all channels share

	down chan struct{}  // closed when Shutdown begins
	done chan struct{}  // closed when Shutdown has finished
	wg   sync.WaitGroup // dials, binds: Add only under mu and while !closed

	mu        sync.Mutex
	closed    bool
	conns     map[string]transport.Connection // by the address's bytes
	dials     map[string]*dial                // likewise: the one flight of each address
	listeners map[string]*listener            // likewise; ports 0 are in loose
	binds     map[string]*bind
	loose     map[*listener]struct{}
	channels  map[channelKey]*channel
}

func newBook(p Params) *book {
	b := &book{
		Params: p, self: newSelf(p.Address),
		down: make(chan struct{}), done: make(chan struct{}),
		conns: make(map[string]transport.Connection), dials: make(map[string]*dial),
		listeners: make(map[string]*listener), binds: make(map[string]*bind), loose: make(map[*listener]struct{}),
		channels: make(map[channelKey]*channel),
	}
	b.grpcOpts = b.sharedOptions()
	return b
}

func (b *book) Address() ma.Multiaddr { return b.Params.Address }

// enter counts a piece of work that Shutdown waits for, until wg.Done. It returns false after Shutdown.
func (b *book) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Add(1)
	return true
}

// usable says why a call about this address fails at once: ErrClosed, whatever the address is, or ErrEmptyAddress.
func (b *book) usable(maddr ma.Multiaddr) error {
	select {
	case <-b.down:
		return ErrClosed
	default:
	}
	if len(maddr) == 0 {
		return ErrEmptyAddress
	}
	return nil
}

func (b *book) RemoveConnection(maddr ma.Multiaddr) error {
	if err := b.usable(maddr); err != nil {
		return err
	}
	key, ckey := string(maddr.Bytes()), channelKeyOf(maddr)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	conn, d, ch := b.conns[key], b.dials[key], b.channels[ckey]
	delete(b.conns, key)
	delete(b.dials, key)
	delete(b.channels, ckey)
	b.mu.Unlock()
	var errs [2]error
	if d != nil {
		d.cancel(ErrRemoved)
	}
	if conn != nil {
		errs[0] = closeConn(conn)
	}
	if ch != nil {
		errs[1] = ch.close()
	}
	return errors.Join(errs[:]...)
}

func (b *book) Shutdown() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.done
		return nil
	}
	b.closed = true
	close(b.down)
	var all []func() error
	for _, d := range b.dials {
		d.cancel(ErrClosed)
	}
	for _, c := range b.conns {
		all = append(all, func() error { return closeConn(c) })
	}
	for _, l := range b.listeners {
		all = append(all, l.Close)
	}
	for l := range b.loose {
		all = append(all, l.Close)
	}
	for _, c := range b.channels {
		all = append(all, c.close)
	}
	clear(b.conns)
	clear(b.channels)
	b.mu.Unlock()
	// Side by side, since closing a stalled connection may take seconds.
	errs := make([]error, len(all))
	var closers sync.WaitGroup
	for i, f := range all {
		closers.Go(func() { errs[i] = f() })
	}
	closers.Wait()
	b.wg.Wait()
	close(b.done)
	return errors.Join(errs...)
}

// closeConn closes c. That somebody else has closed it already is no error.
func closeConn(c io.Closer) error {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
