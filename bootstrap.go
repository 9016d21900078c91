package kith

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/internal/state"
	"github.com/libp2p/go-libp2p/core/peer"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// bootstrapEvery is how often the list is taught anew: others may displace its
// addresses, and names change theirs.
const bootstrapEvery = time.Hour

// BootstrapEntry is one line of the bootstrap list.
type BootstrapEntry struct {
	// Line is an address in any spelling, or /dnsaddr/NAME.
	Line string
	// Configured entries are in the node's Config, and cannot be removed here.
	Configured bool
}

// bootstrap is the list of nodes to begin with: those of the configuration and
// those that somebody added. It is a source of discovery.
type bootstrap struct {
	rows    *state.Bucket // of added lines
	dns     madns.BasicResolver
	log     *slog.Logger
	changed chan struct{} // a token: teach again

	mu         sync.Mutex // guards what follows
	configured []string
	added      []string // sorted
}

// newBootstrap reads the list. Its errors are ErrUsage for a line of the
// configuration that is no address, and what the state says.
func newBootstrap(configured []string, rows *state.Bucket, dns madns.BasicResolver, log *slog.Logger) (*bootstrap, error) {
	b := &bootstrap{rows: rows, dns: dns, log: log, changed: make(chan struct{}, 1), configured: slices.Clone(configured)}
	if _, err := discovery.ParseList(configured); err != nil {
		return nil, &usageError{err}
	}
	_, err := rows.Each(func(key, _ []byte) { b.added = append(b.added, string(key)) })
	return b, err
}

// Name implements discovery.Source.
func (b *bootstrap) Name() string { return "bootstrap" }

// list is all that is in it.
func (b *bootstrap) list() discovery.List {
	b.mu.Lock()
	lines := slices.Concat(b.configured, b.added)
	b.mu.Unlock()
	list, err := discovery.ParseList(lines) // checked when it came in; an older or newer kith may have checked otherwise
	if err != nil {
		b.log.Warn("a part of the bootstrap list cannot be used", "error", err)
	}
	return list
}

func (b *bootstrap) addrInfos() []peer.AddrInfo { return b.list().AddrInfos() }

// Run implements discovery.Source.
func (b *bootstrap) Run(ctx context.Context, learn func([]discovery.Found)) error {
	tick := time.NewTicker(bootstrapEvery)
	defer tick.Stop()
	for {
		list := b.list()
		from := addrbook.Source{Kind: addrbook.Bootstrap}
		addrs := list.Addresses
		for _, name := range list.DNSAddrs {
			answer, err := discovery.LookupDNSAddr(ctx, b.dns, name)
			if err != nil && ctx.Err() == nil {
				b.log.Warn("cannot look up a name of the bootstrap list", "name", name, "error", err)
			}
			addrs = append(addrs, answer.Addresses...)
		}
		found := make([]discovery.Found, len(addrs))
		for i, a := range addrs {
			found[i] = discovery.Found{Address: a, From: from}
		}
		learn(found)
		select {
		case <-tick.C:
		case <-b.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *bootstrap) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// Bootstrap is the list of nodes to begin with.
func (n *Node) Bootstrap() []BootstrapEntry {
	n.boot.mu.Lock()
	defer n.boot.mu.Unlock()
	var out []BootstrapEntry
	for _, l := range n.boot.configured {
		out = append(out, BootstrapEntry{l, true})
	}
	for _, l := range n.boot.added {
		out = append(out, BootstrapEntry{l, false})
	}
	return out
}

// AddBootstrap adds lines to the list, which is kept, and teaches them to the
// address book. It returns those that were not in the list before. Nothing is
// added when one line is no address: ErrUsage.
func (n *Node) AddBootstrap(lines ...string) (added []string, err error) {
	list, err := discovery.ParseList(lines)
	if err != nil {
		return nil, &usageError{err}
	}
	for _, a := range list.Addresses {
		if a.NodeID == n.NodeID() {
			return nil, usage("%s is this node", a)
		}
	}
	b := n.boot
	var rows []state.Row
	b.mu.Lock()
	for _, l := range lines {
		if !slices.Contains(b.configured, l) && !slices.Contains(b.added, l) && !slices.Contains(added, l) {
			added = append(added, l)
			rows = append(rows, state.Row{Key: l, Value: []byte{}})
		}
	}
	b.mu.Unlock()
	if err := b.rows.Save(rows); err != nil {
		return nil, plain(err)
	}
	b.mu.Lock()
	b.added = append(b.added, added...)
	slices.Sort(b.added)
	b.added = slices.Compact(b.added)
	b.mu.Unlock()
	b.wake()
	return added, nil
}

// RemoveBootstrap takes lines out of the list; addresses that are in the address
// book stay there. Error: ErrUsage for a line that is not in the list, or is
// there by the configuration.
func (n *Node) RemoveBootstrap(lines ...string) error {
	b := n.boot
	b.mu.Lock()
	var faults []error
	rows := make([]state.Row, 0, len(lines))
	for _, l := range lines {
		switch {
		case slices.Contains(b.added, l):
			rows = append(rows, state.Row{Key: l})
		case slices.Contains(b.configured, l):
			faults = append(faults, fmt.Errorf("%s is in the configuration: take it out there", l))
		default:
			faults = append(faults, fmt.Errorf("%s is not in the list; `kith bootstrap` shows it", l))
		}
	}
	b.mu.Unlock()
	if len(faults) > 0 {
		return &usageError{errors.Join(faults...)}
	}
	if err := b.rows.Save(rows); err != nil {
		return plain(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.added = slices.DeleteFunc(b.added, func(l string) bool { return slices.Contains(lines, l) })
	return nil
}
