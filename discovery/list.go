package discovery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxLines  = 4096 // of a list
	maxFaults = 64   // that one error tells of

	relearn = time.Hour // between two teachings of a list
)

// List is a bootstrap list, read.
type List struct {
	Addresses []address.NodeAddress // each once
	// DNSAddrs are the entries /dnsaddr/NAME without a peer ID, for NewDNSAddr.
	DNSAddrs []string
}

// LineError is one damaged line of a list.
type LineError struct {
	Line int    // from 1
	Text string // at most 120 bytes of it
	Err  error
}

// Error says which line, and what is wrong with it.
func (e *LineError) Error() string {
	if _, ok := errors.AsType[*address.ParseError](e.Err); ok { // names the text itself
		return fmt.Sprintf("discovery: bootstrap line %d: %s", e.Line, strings.TrimPrefix(e.Err.Error(), "address: "))
	}
	return fmt.Sprintf("discovery: bootstrap line %d: %q: %v", e.Line, e.Text, e.Err)
}

// Unwrap returns the fault.
func (e *LineError) Unwrap() error { return e.Err }

// ParseList reads a bootstrap list: addresses in any spelling of
// address.Parse, and /dnsaddr/NAME. White space, empty lines and what follows a
// # at the start or after a space are ignored. All that is good is returned,
// together with one error that joins a *LineError for each line that is not, up
// to 64 of them, and says how many more there are; lines after the 4096th are
// such.
func ParseList(lines []string) (List, error) {
	var p listParser
	for _, text := range lines {
		p.line(text)
	}
	return p.end()
}

// ReadList is ParseList for a file. It reads at most 4096 lines and stops with an
// error at one longer than address.MaxLength and its comment can be; an error of
// r is joined, too.
func ReadList(r io.Reader) (List, error) {
	var p listParser
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 2*address.MaxLength)
	for p.n < maxLines+1 && lines.Scan() {
		p.line(lines.Text())
	}
	list, err := p.end()
	switch e := lines.Err(); {
	case errors.Is(e, bufio.ErrTooLong):
		err = errors.Join(err, &LineError{p.n + 1, "", fmt.Errorf("longer than %d bytes; nothing after it was read", 2*address.MaxLength)})
	case e != nil:
		err = errors.Join(err, fmt.Errorf("discovery: bootstrap list: %w", e))
	}
	return list, err
}

type listParser struct {
	n      int // lines so far
	list   List
	seen   map[string]bool
	faults []error
	more   int // faults that are only counted
}

func (p *listParser) line(text string) {
	p.n++
	if p.n > maxLines {
		if p.n == maxLines+1 {
			p.fault(text, fmt.Errorf("a list has at most %d lines; this one and what follows is left out", maxLines))
		}
		return
	}
	if i := strings.Index(" "+strings.ReplaceAll(text, "\t", " "), " #"); i >= 0 {
		text = text[:i]
	}
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	if strings.HasPrefix(text, "/dnsaddr/") && !strings.Contains(text, "/p2p/") {
		if _, err := parseDNSAddr(text); err != nil {
			p.fault(text, err)
		} else if p.first(text) {
			p.list.DNSAddrs = append(p.list.DNSAddrs, text)
		}
		return
	}
	a, err := address.Parse(text)
	if err != nil {
		p.fault(text, err)
	} else if p.first(a.String()) {
		p.list.Addresses = append(p.list.Addresses, a)
	}
}

func (p *listParser) first(s string) bool {
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	known := p.seen[s]
	p.seen[s] = true
	return !known
}

func (p *listParser) fault(text string, err error) {
	if len(p.faults) == maxFaults {
		p.more++
		return
	}
	p.faults = append(p.faults, &LineError{p.n, text[:min(len(text), 120)], err})
}

func (p *listParser) end() (List, error) {
	if p.more > 0 {
		p.faults = append(p.faults, fmt.Errorf("discovery: bootstrap list: %d more lines are damaged", p.more))
	}
	return p.list, errors.Join(p.faults...)
}

// AddrInfos returns the libp2p peers of the list that name their peer ID, as
// DHTConfig.Bootstrap wants them.
func (l List) AddrInfos() []peer.AddrInfo {
	var infos []peer.AddrInfo
	at := map[peer.ID]int{}
	for _, a := range l.Addresses {
		m, err := a.Multiaddr()
		if err != nil || a.Protocol != address.Libp2p {
			continue
		}
		where, id := peer.SplitAddr(m)
		i, known := at[id]
		if !known {
			i = len(infos)
			at[id] = i
			infos = append(infos, peer.AddrInfo{ID: id})
		}
		if len(where) > 0 {
			infos[i].Addrs = append(infos[i].Addrs, where)
		}
	}
	return infos
}

// Sources returns the sources of a list: NewBootstrap for its addresses, if it has
// any, and NewDNSAddr for each of its names. An error joins those of names that
// cannot be used, which are left out.
func (l List) Sources(name string, o DNSOptions) ([]Source, error) {
	var sources []Source
	if len(l.Addresses) > 0 {
		sources = append(sources, NewBootstrap(name, l))
	}
	var faults []error
	for _, n := range l.DNSAddrs {
		s, err := NewDNSAddr(n, o)
		switch {
		case err != nil:
			faults = append(faults, err)
		case !slices.ContainsFunc(sources, func(t Source) bool { return t.Name() == s.Name() }):
			sources = append(sources, s)
		}
	}
	return sources, errors.Join(faults...)
}

// NewBootstrap returns a source that teaches the addresses of a list, at its
// start and once an hour, since others may displace them. name is that of the
// list; the source is "bootstrap NAME", or "bootstrap" without one. DNSAddrs
// are sources of their own: see NewDNSAddr.
func NewBootstrap(name string, l List) Source { return &bootstrap{name, l} }

type bootstrap struct {
	name string
	list List
}

func (b *bootstrap) Name() string { return strings.TrimSpace("bootstrap " + b.name) }

func (b *bootstrap) Run(ctx context.Context, learn func([]Found)) error {
	found := make([]Found, len(b.list.Addresses))
	for i, a := range b.list.Addresses {
		found[i] = Found{a, addrbook.Source{Kind: addrbook.Bootstrap, Name: b.name}}
	}
	if len(found) == 0 {
		return nil
	}
	tick := time.NewTicker(relearn)
	defer tick.Stop()
	for {
		learn(found)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
