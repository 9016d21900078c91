package kith

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/internal/state"
	"github.com/libp2p/go-libp2p/core/peer"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// BootstrapEntry is one line of the bootstrap list.
type BootstrapEntry struct {
	// Line is an address in any spelling, or /dnsaddr/NAME.
	Line string
	// Configured entries are in the node's Config, and cannot be removed here.
	Configured bool
}

// bootstrap is the list of nodes to begin with: those of the configuration and
// those that somebody added. It is a source of discovery, made of those of the
// list.
type bootstrap struct {
	rows *state.Bucket // of added lines
	dns  madns.BasicResolver
	log  *slog.Logger

	mu         sync.Mutex // guards what follows
	configured []string
	added      []string       // sorted
	sources    *discovery.Mix // that run, or ran last; nil: none did
	restart    func()         // ends them; those of the list as it is then follow. Never nil
}

// newBootstrap reads the list. Its errors are ErrUsage for a line of the
// configuration that is no address, and what the state says.
func newBootstrap(configured []string, rows *state.Bucket, dns madns.BasicResolver, log *slog.Logger) (*bootstrap, error) {
	b := &bootstrap{rows: rows, dns: dns, log: log, restart: func() {}, configured: slices.Clone(configured)}
	if _, all := discovery.ParseList(configured); all != nil {
		for _, l := range configured {
			if _, err := discovery.ParseList([]string{l}); err != nil {
				return nil, usage("bootstrap: %w", badLine(l, err))
			}
		}
		return nil, &usageError{all} // too many
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

// Run implements discovery.Source: it runs the sources of the list, each again
// when it fails, and all anew when the list changes.
func (b *bootstrap) Run(ctx context.Context, learn func([]discovery.Found)) error {
	for ctx.Err() == nil {
		until, restart := context.WithCancel(ctx)
		b.mu.Lock()
		b.restart = restart
		b.mu.Unlock()
		err := b.runList(until, learn)
		restart()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bootstrap) runList(ctx context.Context, learn func([]discovery.Found)) error {
	// A person named the names: they may be those of a private network.
	sources, err := b.list().Sources("", discovery.DNSOptions{Resolver: b.dns, Logger: b.log, AnyScope: true})
	if err != nil {
		return err
	}
	mix, err := discovery.NewMix(discovery.MixConfig{Learner: passOn(learn), Sources: sources, Logger: b.log})
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.sources = mix
	b.mu.Unlock()
	return mix.Run(ctx)
}

// passOn teaches the mix that the list is a part of. That one knows what is new,
// and counts.
type passOn func([]discovery.Found)

// Learn implements discovery.Learner.
func (learn passOn) Learn(from addrbook.Source, as []address.NodeAddress) addrbook.Learned {
	for _, a := range as {
		learn([]discovery.Found{{Address: a, From: from}})
	}
	return addrbook.Learned{}
}

// Entry implements discovery.Learner.
func (passOn) Entry(address.NodeAddress) (addrbook.Entry, bool) { return addrbook.Entry{}, false }

// Report implements discovery.Reporter, with what the sources of the list refused
// since it last changed and what is wrong with those that fail.
func (b *bootstrap) Report() (map[addrbook.Reason]uint64, error) {
	b.mu.Lock()
	mix := b.sources
	b.mu.Unlock()
	if mix == nil {
		return nil, nil
	}
	refused, faults := map[addrbook.Reason]uint64{}, []error(nil)
	for _, s := range mix.Stats() {
		for why, n := range s.Refused {
			refused[why] += n
		}
		if s.State == discovery.StateFailed {
			faults = append(faults, s.LastError)
		}
	}
	return refused, errors.Join(faults...)
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
// address book. It returns those that were not in the list before, without white
// space around them. Nothing is added when one line is neither an address that this
// node can dial nor /dnsaddr/NAME: ErrUsage, with what to write instead.
func (n *Node) AddBootstrap(lines ...string) (added []string, err error) {
	for _, l := range lines {
		if l = strings.TrimSpace(l); isName(l) {
			if _, err := discovery.ParseList([]string{l}); err != nil {
				return nil, badLine(l, err)
			}
			continue
		}
		a, err := n.ParseAddress(l)
		if err != nil {
			return nil, err
		}
		if a.NodeID == n.NodeID() {
			return nil, usage("%s is this node", l)
		}
	}
	if _, err := discovery.ParseList(lines); err != nil {
		return nil, &usageError{err} // too many
	}
	b := n.boot
	var rows []state.Row
	b.mu.Lock()
	for _, l := range lines {
		l = strings.TrimSpace(l)
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
	b.restart()
	b.mu.Unlock()
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
	lines = slices.Clone(lines)
	for i, l := range lines {
		if !slices.Contains(b.added, l) {
			l = strings.TrimSpace(l)
			lines[i] = l
		}
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
	b.restart()
	return nil
}
