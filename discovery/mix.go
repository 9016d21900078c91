package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/kith-p2p/kith/addrbook"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/internal/backoff"
)

const (
	maxWaiting = 256  // addresses of a source that wait for its next share
	maxTaught  = 1024 // addresses of a source whose dials are counted for it

	retryFirst = 5 * time.Second // pauses after a source failed
	retryLimit = 5 * time.Minute
	patience   = 5 * time.Second // before a source that does not end is named
)

// MixConfig says what a Mix mixes.
type MixConfig struct {
	// Learner is taught. Required.
	Learner Learner
	// Sources are run. Empty: nothing is looked for.
	Sources []Source
	// Off names sources that are not run until Switch turns them on.
	Off []string
	// External are sources that teach the book by themselves and are only
	// counted, such as peer exchange.
	External []External
	// Share is how many new addresses each source may teach in each Interval;
	// known ones and those of a person's list do not count. Defaults 64 and one
	// minute.
	Share    int
	Interval time.Duration
	// HostShare and GroupShare are how many of these may be of one global IP
	// and of one network (addrbook.Group), so that nobody can have us dial a
	// victim again and again. Defaults 4 and 16.
	HostShare, GroupShare int
	// Logger is told of sources that fail. nil: nothing is logged.
	Logger *slog.Logger
}

// PanicError says that a source panicked.
type PanicError struct {
	Value any
	Stack []byte
}

// Error says with what.
func (e *PanicError) Error() string {
	return fmt.Sprintf("discovery: the source panicked: %v", e.Value)
}

// Mix runs sources and teaches a book what they find, each its fair share. One
// that fails or panics is run again after a pause that grows from 5 s to 5 min;
// the others do not notice. All methods are safe for concurrent use.
type Mix struct {
	cfg     MixConfig
	log     *slog.Logger
	sources []*member // never changes

	mu      sync.Mutex // guards the fields below, and those of the members; never held over a call to others
	running bool
	credits map[string]*Dials // of externals, by name
}

// member is one source. Mix.mu guards the fields below the line.
type member struct {
	source Source
	name   string
	wake   chan struct{} // room for one: on has changed

	// ---
	on      bool
	run     *run // nil: not running now
	counts  SourceStats
	waiting queue
	share   share
	taught  memory
}

// run is one call of a source's Run.
type run struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// NewMix checks the configuration and returns a Mix that does nothing before
// Run. Errors match ErrOptions, or ErrUnknownSource for a name in Off.
func NewMix(cfg MixConfig) (*Mix, error) {
	if cfg.Learner == nil {
		return nil, fmt.Errorf("%w: nobody to teach: Learner is nil", ErrOptions)
	}
	if cfg.Share < 0 || cfg.Interval < 0 || cfg.HostShare < 0 || cfg.GroupShare < 0 {
		return nil, fmt.Errorf("%w: a share or interval is negative", ErrOptions)
	}
	cfg.Share = orDefault(cfg.Share, 64)
	cfg.Interval = orDefault(cfg.Interval, time.Minute)
	cfg.HostShare = orDefault(cfg.HostShare, 4)
	cfg.GroupShare = orDefault(cfg.GroupShare, 16)
	m := &Mix{cfg: cfg, log: logger(cfg.Logger), credits: map[string]*Dials{}}
	names := map[string]bool{}
	for _, s := range cfg.Sources {
		name := s.Name()
		if name == "" || names[name] {
			return nil, fmt.Errorf("%w: two sources with the name %q, or one without", ErrOptions, name)
		}
		names[name] = true
		on := !slices.Contains(cfg.Off, name)
		b := &member{source: s, name: name, wake: make(chan struct{}, 1), on: on}
		b.counts = SourceStats{Name: name, State: StateOff}
		b.share.refill(cfg)
		m.sources = append(m.sources, b)
	}
	for _, e := range cfg.External {
		if e.Name == "" || names[e.Name] || e.Book == nil {
			return nil, fmt.Errorf("%w: the external source %q needs a name of its own and a book", ErrOptions, e.Name)
		}
		names[e.Name] = true
		m.credits[e.Name] = &Dials{}
	}
	for _, name := range cfg.Off {
		if m.member(name) == nil {
			return nil, fmt.Errorf("%w: %q cannot be off", ErrUnknownSource, name)
		}
	}
	return m, nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

func (m *Mix) member(name string) *member {
	for _, s := range m.sources {
		if s.name == name {
			return s
		}
	}
	return nil
}

// Run runs the sources until ctx ends and returns nil when the last has ended;
// after 5 s it logs those that have not. It can be called again after that, but
// not while it runs: ErrRunning.
func (m *Mix) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.running {
		m.mu.Unlock()
		return ErrRunning
	}
	m.running = true
	m.mu.Unlock()
	var all sync.WaitGroup
	for _, s := range m.sources {
		all.Go(func() { m.tend(ctx, s) })
	}
	all.Go(func() { m.shares(ctx) })
	named := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(named)
		m.nameLate(&all)
	})
	all.Wait()
	if !stop() {
		<-named
	}
	m.mu.Lock()
	m.running = false
	m.mu.Unlock()
	return nil
}

// nameLate logs the sources that take their time to end, until all have.
func (m *Mix) nameLate(all *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		case <-time.After(patience):
			var late []string
			m.mu.Lock()
			for _, s := range m.sources {
				if s.run != nil {
					late = append(late, s.name)
				}
			}
			m.mu.Unlock()
			if len(late) > 0 {
				m.log.Warn("discovery: still waiting for sources to end", "sources", late)
			}
		}
	}
}

// shares gives each source its share at each interval.
func (m *Mix) shares(ctx context.Context) {
	tick := time.NewTicker(m.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, s := range m.sources {
			m.mu.Lock()
			s.share.refill(m.cfg)
			found := s.waiting.items
			s.waiting = queue{}
			m.mu.Unlock()
			for _, q := range found {
				f := q.Found
				known := m.knows(f.Address)
				m.mu.Lock()
				what := later
				if s.on {
					what = m.admit(s, f, known)
				}
				m.mu.Unlock()
				m.teach(s, f, what)
			}
		}
	}
}

// tend runs one source whenever it is on, until ctx ends.
func (m *Mix) tend(ctx context.Context, s *member) {
	defer func() {
		m.mu.Lock()
		s.counts.State, s.waiting = StateOff, queue{}
		m.mu.Unlock()
	}()
	failures := 0
	for ctx.Err() == nil {
		r, runCtx := m.begin(ctx, s)
		if r == nil {
			failures = 0
			s.pause(ctx, nil)
			continue
		}
		started := time.Now()
		err := m.call(runCtx, s, r)
		off := runCtx.Err() != nil
		r.cancel()
		if time.Since(started) > retryLimit {
			failures = 0
		}
		if err != nil && !off {
			failures++
		}
		m.end(s, r, err, off, failures)
		switch {
		case off:
		case err == nil:
			s.pause(ctx, nil)
		default:
			wait := backoff.Jittered(failures, retryFirst, retryLimit)
			if e, ok := errors.AsType[*RetryError](err); ok {
				wait = max(wait, e.In)
			}
			m.logFailure(s.name, err, wait)
			t := time.NewTimer(wait)
			s.pause(ctx, t.C)
			t.Stop()
		}
	}
}

func (m *Mix) logFailure(name string, err error, wait time.Duration) {
	log := m.log.With("source", name, "error", err, "in", wait.Round(time.Second))
	if p, ok := errors.AsType[*PanicError](err); ok {
		log.Error("discovery: a source panicked; it will be tried again", "stack", string(p.Stack))
		return
	}
	log.Warn("discovery: a source failed; it will be tried again")
}

// begin starts a run if the source is on.
func (m *Mix) begin(ctx context.Context, s *member) (*run, context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.on {
		s.counts.State = StateOff
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s.run = &run{cancel, make(chan struct{})}
	s.counts.State = StateRunning
	s.counts.Runs++
	return s.run, ctx
}

// end notes how a run ended.
func (m *Mix) end(s *member, r *run, err error, off bool, failures int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.run = nil
	close(r.ended)
	switch {
	case off:
		s.counts.State, s.waiting = StateOff, queue{}
	case err == nil:
		s.counts.State = StateDone
	default:
		s.counts.State = StateFailed
		s.counts.LastError = err
	}
	s.counts.Failures = failures
}

// pause waits for the time, for the source to be switched, or for the end.
func (s *member) pause(ctx context.Context, until <-chan time.Time) {
	select {
	case <-until:
	case <-s.wake:
	case <-ctx.Done():
	}
}

func (m *Mix) call(ctx context.Context, s *member, r *run) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
			m.mu.Lock()
			s.counts.Panics++
			m.mu.Unlock()
		}
	}()
	return s.source.Run(ctx, func(found []Found) { m.offer(s, r, found) })
}

// Switch turns a source on or off, at any time. One that is on, but failed or
// had nothing more to find, is run again at once by turning it on. Turning one
// off forgets what of it still waited, and returns when its Run has ended or ctx
// has; what it taught stays in the book. Error: ErrUnknownSource, or ctx's.
func (m *Mix) Switch(ctx context.Context, name string, on bool) error {
	s := m.member(name)
	if s == nil {
		return fmt.Errorf("%w: %q", ErrUnknownSource, name)
	}
	m.mu.Lock()
	s.on = on
	r := s.run
	if !on {
		s.waiting = queue{}
	}
	m.mu.Unlock()
	if r == nil || !on {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	if on || r == nil {
		return nil
	}
	r.cancel()
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("discovery: the source %s has not ended yet: %w", name, context.Cause(ctx))
	}
}

// offer takes what a source found. What a run says after its end does not count.
func (m *Mix) offer(s *member, r *run, found []Found) {
	for _, f := range found {
		known := m.knows(f.Address)
		m.mu.Lock()
		if s.run != r || !s.on {
			m.mu.Unlock()
			return
		}
		s.counts.Offered++
		what := m.admit(s, f, known)
		m.mu.Unlock()
		m.teach(s, f, what)
	}
}

// admission says what to do with an address now.
type admission int

const (
	later admission = iota // or never
	free                   // teach it, it costs no share
	paid                   // teach it, a share is taken
)

// knows reports whether the book has an address now.
func (m *Mix) knows(a address.NodeAddress) bool {
	_, ok := m.cfg.Learner.Entry(a)
	return ok
}

// admit decides. What may not be taught now waits, or is refused. What the book
// knows takes no room in it and costs nothing, unless it turns out to be gone; who
// taught it, and how often, says nothing of that. The caller holds mu.
func (m *Mix) admit(s *member, f Found, known bool) admission {
	if trusted(f.From.Kind) || known {
		return free
	}
	switch why := s.share.take(f.Address, m.cfg); {
	case why == "":
		return paid
	case why == RefusedShare:
		if s.waiting.add(f) {
			s.counts.refuse(why, 1)
		}
	default:
		s.counts.refuse(why, 1)
	}
	return later
}

// teach tells the book, if admitted, and counts what became of it.
func (m *Mix) teach(s *member, f Found, what admission) {
	if what == later {
		return
	}
	l := m.cfg.Learner.Learn(f.From, []address.NodeAddress{f.Address})
	m.mu.Lock()
	defer m.mu.Unlock()
	s.counts.Added += uint64(l.Added)
	s.counts.Known += uint64(l.Known)
	for why, n := range l.Refused {
		s.counts.refuse(why, n)
	}
	if l.Added+l.Known > 0 {
		s.taught.add(f.Address)
	}
	switch {
	case what == paid && l.Added == 0:
		s.share.giveBack(f.Address, m.cfg)
	case what == free && l.Added > 0 && !trusted(f.From.Kind):
		s.share.charge(f.Address)
	}
}

func trusted(k addrbook.Kind) bool { return k == addrbook.Bootstrap || k == addrbook.Manual }
