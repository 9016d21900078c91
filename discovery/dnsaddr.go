package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// What one walk through the records of a name may cost, whoever writes them.
const (
	dnsDepth   = 4   // records that name other records
	dnsLookups = 16  // questions
	dnsRecords = 256 // records looked at in one answer
	dnsFound   = 64  // addresses in all
	dnsHosts   = 4   // IPs of one host name
	dnsTimeout = 30 * time.Second
)

// DNSOptions are those of the sources that ask the DNS. The zero value is the
// default.
type DNSOptions struct {
	// Resolver is asked. It must honour its context. nil: the system's
	// (net.DefaultResolver).
	Resolver madns.BasicResolver
	// Every is how often to ask again. Default one hour.
	Every time.Duration
	// AnyScope also believes addresses that are not of the internet, as for the
	// names of a private network. The book takes them as if they spoke for
	// themselves.
	AnyScope bool
	// Logger is told what is wrong with answers. nil: nobody.
	Logger *slog.Logger
}

func (o DNSOptions) defaults() DNSOptions {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	o.Every = orDefault(o.Every, time.Hour)
	o.Logger = logger(o.Logger)
	return o
}

// DNSAnswer is what the dnsaddr records of a name say.
type DNSAnswer struct {
	Addresses []address.NodeAddress // without names, each once, at most 64
	Malformed int                   // records dnsaddr=... that are no addresses of ours
	Cut       int                   // records and questions above what is read
	Failed    int                   // questions that got no answer, but the first
	Lookups   int                   // questions asked, at most 16
}

// LookupDNSAddr reads the TXT records of _dnsaddr.NAME (the dnsaddr
// specification of libp2p): each names an address, a host to look up, or another
// such name, to a depth of 4. name is /dnsaddr/NAME, /dnsaddr/NAME/p2p/ID for the
// addresses of one peer, or NAME. It asks 16 questions at most, looks at 256
// records of an answer, and blocks for at most 30 s. Errors: an *address.ParseError
// or ErrOptions for a name that is none, ctx's, or what the resolver returned for
// the first question; later ones are counted.
func LookupDNSAddr(ctx context.Context, resolver madns.BasicResolver, name string) (DNSAnswer, error) {
	m, err := parseDNSAddr(name)
	if err != nil {
		return DNSAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	w := dnsWalk{resolver: resolver, asked: map[string]bool{}, found: map[address.NodeAddress]bool{}}
	w.queue = []dnsStep{{m, 0}}
	for len(w.queue) > 0 && err == nil {
		step := w.queue[0]
		w.queue = w.queue[1:]
		err = w.ask(ctx, step)
	}
	return w.answer, err
}

func parseDNSAddr(name string) (ma.Multiaddr, error) {
	if !strings.HasPrefix(name, "/") {
		name = "/dnsaddr/" + name
	}
	if len(name) > address.MaxLength {
		return nil, fmt.Errorf("%w: a name of %d bytes", ErrOptions, len(name))
	}
	m, err := ma.NewMultiaddr(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %.120q is no dnsaddr name: %v", ErrOptions, name, err)
	}
	if m[0].Code() != ma.P_DNSADDR || len(m) > 2 || len(m) == 2 && m[1].Code() != ma.P_P2P {
		return nil, fmt.Errorf("%w: %.120q is no dnsaddr name: write /dnsaddr/NAME or /dnsaddr/NAME/p2p/ID", ErrOptions, name)
	}
	return m, nil
}

// dnsWalk is one LookupDNSAddr.
type dnsWalk struct {
	resolver madns.BasicResolver
	queue    []dnsStep
	asked    map[string]bool
	found    map[address.NodeAddress]bool
	answer   DNSAnswer
}

type dnsStep struct {
	addr  ma.Multiaddr // /dnsaddr/NAME and what its records must end in
	depth int
}

// ask reads the records of one name. Its error ends the walk.
func (w *dnsWalk) ask(ctx context.Context, step dnsStep) error {
	name, suffix := step.addr[0].Value(), step.addr[1:]
	if !w.may(step.addr) {
		return nil
	}
	records, err := w.resolver.LookupTXT(ctx, "_dnsaddr."+name)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		if w.answer.Lookups == 1 {
			return fmt.Errorf("discovery: dnsaddr %s: %w", name, err)
		}
		w.answer.Failed++
		return nil
	}
	if len(records) > dnsRecords {
		w.answer.Cut += len(records) - dnsRecords
		records = records[:dnsRecords]
	}
	for _, r := range records {
		text, ours := strings.CutPrefix(r, "dnsaddr=")
		if !ours {
			continue
		}
		m, err := parseRecord(text)
		switch {
		case err != nil:
			w.answer.Malformed++
		case !endsIn(m, suffix):
		case m[0].Code() == ma.P_DNSADDR && len(m) > 2:
			w.answer.Malformed++
		case m[0].Code() == ma.P_DNSADDR && step.depth+1 >= dnsDepth:
			w.answer.Cut++
		case m[0].Code() == ma.P_DNSADDR:
			w.queue = append(w.queue, dnsStep{m, step.depth + 1})
		default:
			w.take(ctx, m)
		}
	}
	return nil
}

// may counts a question, and says whether it may be asked: each once.
func (w *dnsWalk) may(m ma.Multiaddr) bool {
	key := strings.ToLower(m.String())
	if w.asked[key] {
		return false
	}
	if w.answer.Lookups == dnsLookups || len(w.found) == dnsFound {
		w.answer.Cut++
		return false
	}
	w.asked[key] = true
	w.answer.Lookups++
	return true
}

func parseRecord(text string) (ma.Multiaddr, error) {
	if len(text) > address.MaxLength {
		return nil, errors.New("too long")
	}
	return ma.NewMultiaddr(text)
}

func endsIn(m, suffix ma.Multiaddr) bool {
	return len(suffix) == 0 || len(m) >= len(suffix) && m[len(m)-len(suffix):].Equal(suffix)
}

// take adds an address, and looks up the host in it.
func (w *dnsWalk) take(ctx context.Context, m ma.Multiaddr) {
	a, err := address.FromMultiaddr(m)
	if err != nil {
		w.answer.Malformed++
		return
	}
	if a.Hostname == "" {
		w.answer.Malformed++ // says who, not where
		return
	}
	if hostIP(a).IsValid() {
		w.add(a)
		return
	}
	if !w.may(m) {
		return
	}
	endpoints, err := a.ResolveWith(ctx, w.resolver)
	if err != nil {
		w.answer.Failed++
		return
	}
	for _, e := range endpoints[:min(len(endpoints), dnsHosts)] {
		w.add(e.NodeAddress(a.NodeID))
	}
}

func (w *dnsWalk) add(a address.NodeAddress) {
	switch {
	case w.found[a]:
	case len(w.found) == dnsFound:
		w.answer.Cut++
	default:
		w.found[a] = true
		w.answer.Addresses = append(w.answer.Addresses, a)
	}
}

// NewDNSAddr returns the source "dnsaddr NAME", which asks for the addresses of
// a name as LookupDNSAddr does, at its start and then every DNSOptions.Every.
// When it gets no answer its Run fails. Errors match ErrOptions.
func NewDNSAddr(name string, o DNSOptions) (Source, error) {
	m, err := parseDNSAddr(name)
	if err != nil {
		return nil, err
	}
	if o.Every < 0 {
		return nil, fmt.Errorf("%w: asking every %v", ErrOptions, o.Every)
	}
	return &dnsaddr{addr: m.String(), name: strings.TrimPrefix(m.String(), "/dnsaddr/"), o: o.defaults()}, nil
}

type dnsaddr struct {
	addr, name string
	o          DNSOptions
	tally
}

func (s *dnsaddr) Name() string { return "dnsaddr " + s.name }

func (s *dnsaddr) Run(ctx context.Context, learn func([]Found)) error {
	return s.o.repeat(ctx, func() error {
		got, err := LookupDNSAddr(ctx, s.o.Resolver, s.addr)
		if err != nil && len(got.Addresses) == 0 {
			return err
		}
		s.add(addrbook.RefusedInvalid, got.Malformed)
		s.add(RefusedCut, got.Cut)
		if got.Malformed+got.Cut+got.Failed > 0 {
			s.o.Logger.Warn("discovery: not all dnsaddr records could be used", "name", s.name,
				"used", len(got.Addresses), "malformed", got.Malformed, "cut", got.Cut, "failed", got.Failed)
		}
		found := make([]Found, len(got.Addresses))
		for i, a := range got.Addresses {
			found[i] = Found{a, s.o.source(s.name, hostIP(a))}
		}
		learn(found)
		return nil
	})
}

// source is who taught a place: the name. One that is not of the internet speaks
// for itself, if it may: nobody far away could.
func (o DNSOptions) source(name string, at netip.Addr) addrbook.Source {
	from := addrbook.Source{Kind: addrbook.DNS, Name: name}
	if o.AnyScope && addrbook.ScopeOf(at) != addrbook.ScopeGlobal {
		from.IP = at
	}
	return from
}

// repeat asks now and every o.Every, until ctx ends or it fails.
func (o DNSOptions) repeat(ctx context.Context, ask func() error) error {
	for {
		switch err := ask(); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		t := time.NewTimer(o.Every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}
