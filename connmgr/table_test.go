package connmgr

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// name is a network address that is only a name.
type peerName string

func (p peerName) Network() string { return "test" }
func (p peerName) String() string  { return string(p) }

var errNoAnswer = errors.New("no answer")

// A tableWorld is a table with the engine, the address source and the clock
// around it played by hand.
type tableWorld struct {
	t      *testing.T
	table  *table
	start  time.Time
	now    time.Time
	dials  map[uint64]Dial[target] // with the engine: being dialled or up
	upAt   map[uint64]time.Time
	reqs   map[uint64]*ConnReq // every one there ever was
	names  map[string]*ConnReq // of the user's
	source func() string       // "" fails
	asked  int
	dialed map[string]int // how often each address was dialled
	quick  bool           // do not check after each step
}

func newTableWorld(t *testing.T, cfg tableConfig) *tableWorld {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if cfg.retry == 0 {
		cfg.retry = defaultRetry
	}
	if cfg.maxRetry == 0 {
		cfg.maxRetry = defaultMaxRetry
	}
	if cfg.random == nil {
		cfg.random = func() float64 { return 0.5 }
	}
	w := &tableWorld{
		t: t, table: newTable(cfg), start: start, now: start,
		dials: map[uint64]Dial[target]{}, upAt: map[uint64]time.Time{},
		reqs: map[uint64]*ConnReq{}, names: map[string]*ConnReq{}, dialed: map[string]int{},
	}
	w.source = func() string { w.asked++; return fmt.Sprintf("node%d", w.asked) }
	return w
}

// ask is one question to the table, and the dial step up to the dial itself.
func (w *tableWorld) ask() (id uint64, addr string, wake time.Time, ok bool) {
	d, wake, ok := w.table.next(w.now)
	if !ok {
		return 0, "", wake, false
	}
	w.coherent()
	w.dials[d.Tag], w.reqs[d.Tag] = d, d.Target.req
	if d.Target.addr != nil {
		addr = d.Target.addr.String()
	} else if addr = w.source(); addr == "" {
		w.fail(d.Tag, ErrNoAddress)
		return d.Tag, "", wake, true
	} else if err := w.table.resolved(d.Tag, peerName(addr), w.now); err != nil {
		w.fail(d.Tag, err)
		return d.Tag, addr + " is left alone", wake, true
	}
	w.dialed[addr]++
	return d.Tag, addr, wake, true
}

func (w *tableWorld) fail(id uint64, cause error) {
	d := w.dials[id]
	delete(w.dials, id)
	w.table.ended(d, Outcome{Cause: cause, At: w.now})
	w.coherent()
}

func (w *tableWorld) up(id uint64) error {
	if err := w.table.established(id, w.now); err != nil {
		delete(w.dials, id)
		return err
	}
	w.upAt[id] = w.now
	w.coherent()
	return nil
}

func (w *tableWorld) down(id uint64) {
	d := w.dials[id]
	lived := w.now.Sub(w.upAt[id])
	delete(w.dials, id)
	delete(w.upAt, id)
	w.table.ended(d, Outcome{Established: true, Lived: lived, Cause: errNoAnswer, At: w.now})
	w.coherent()
}

// drop is what the engine does with what an order ended.
func (w *tableWorld) drop(match func(Dial[target]) bool) {
	w.coherent()
	if match == nil {
		return
	}
	for id, d := range w.dials {
		if !match(d) {
			continue
		}
		if _, up := w.upAt[id]; up {
			w.down(id)
		} else {
			w.fail(id, ErrDropped)
		}
	}
}

// count is how many requests of a kind are in a state.
func (w *tableWorld) count(k Kind, s ConnState) int {
	n := 0
	for _, r := range w.table.requests() {
		if r.Kind == k && r.State == s {
			n++
		}
	}
	return n
}

// coherent checks what must be true of a table at any time.
func (w *tableWorld) coherent() {
	w.t.Helper()
	if w.quick {
		return
	}
	t := w.table
	automatic, connected, claims, queued, feelers := int64(0), int64(0), int64(0), 0, 0
	for id, e := range t.entries {
		if e.id != id || e.req.ID() != id {
			w.t.Fatalf("entry %d has id %d, its request %d", id, e.id, e.req.ID())
		}
		switch e.kind {
		case KindAutomatic:
			automatic++
			if e.is == up {
				connected++
			}
		case KindFeeler:
			feelers++
		}
		if e.claims() {
			claims++
		}
		inQueue := e.at >= 0
		if inQueue != (e.is == waiting) {
			w.t.Fatalf("request %d is %d and in the queue: %v", id, e.is, inQueue)
		}
		if inQueue {
			queued++
			if (*t.line(e))[e.at] != e {
				w.t.Fatalf("request %d is not at %d in the queue", id, e.at)
			}
		}
		want := map[standing][]ConnState{
			waiting: {ConnPending, ConnFailing}, dialling: {ConnPending, ConnFailing}, up: {ConnEstablished},
			closing: {ConnPending}, resting: {ConnFailing},
		}[e.is]
		if !slices.Contains(want, e.req.State()) {
			w.t.Fatalf("request %d, standing %d, says it is %v", id, e.is, e.req.State())
		}
	}
	if automatic != t.automatic || connected != t.connected || claims != t.claims || queued != len(t.queue)+len(t.asked) || feelers > 1 || (t.feeler != nil) != (feelers == 1) {
		w.t.Fatalf("%d automatic, %d of them up, counted %d, %d; %d claims, counted %d; %d queued of %d; %d feelers", automatic, connected, t.automatic, t.connected, claims, t.claims, queued, len(t.queue)+len(t.asked), feelers)
	}
	if len(t.late) > maxLate || len(t.flaps.by) > maxFlaps {
		w.t.Fatalf("%d late, %d flaps", len(t.late), len(t.flaps.by))
	}
}

// TestTableScripts runs testdata/table-*.txt. The commands:
//
//	keep 3 automatic, retry=5s max-retry=5m feelers=2m anchors=a,b   a new table
//	source node1,node2 / source nothing    what the address source says, the last for ever
//	connect alice [permanently] [or NAME]  as ConnManager.Connect
//	more                                   as NewConnReq
//	dial                                   all the table wants dialled now
//	up, down, fail ID...                   what becomes of dials and connections
//	disconnect ID [again], remove ID, now ID, reset, stop
//	wait 5s                                lets time pass
//	drops N                                what is dialled comes up and drops, N times
//	list, state ID
func TestTableScripts(t *testing.T) {
	runScripts(t, "table-*.txt", func(t *testing.T) func(step) string {
		var w *tableWorld
		return func(s step) string {
			if s.command() == "keep" {
				w = newTableWorld(t, scriptConfig(t, s))
				return "a table"
			}
			if w == nil {
				t.Fatalf("%s: keep comes first", s.pos)
			}
			return w.do(s)
		}
	})
}

func scriptConfig(t *testing.T, s step) tableConfig {
	d := func(key, otherwise string) time.Duration {
		v, err := time.ParseDuration(s.arg(key, otherwise))
		if err != nil {
			t.Fatalf("%s: %v", s.pos, err)
		}
		return v
	}
	n, err := strconv.ParseInt(s.args()[0], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", s.pos, err)
	}
	cfg := tableConfig{target: n, retry: d("retry", "5s"), maxRetry: d("max-retry", "5m"), feelers: d("feelers", "0s")}
	for a := range strings.SplitSeq(s.arg("anchors", ""), ",") {
		if a != "" {
			cfg.anchors = append(cfg.anchors, peerName(a))
		}
	}
	return cfg
}

func (w *tableWorld) do(s step) string {
	var out strings.Builder
	switch s.command() {
	case "source":
		names := strings.Split(s.args()[0], ",")
		w.source = func() string {
			one := names[0]
			if len(names) > 1 {
				names = names[1:]
			}
			return strings.TrimPrefix(one, "nothing")
		}
		return "ok"
	case "connect":
		return w.connect(s)
	case "more":
		w.table.more()
		return "ok"
	case "dial":
		return w.dialAll()
	case "up", "down", "fail", "disconnect", "remove", "now", "state":
		for _, arg := range s.args() {
			if id, err := strconv.ParseUint(arg, 10, 64); err == nil {
				w.one(s, id, &out)
			}
		}
		return out.String()
	case "drops":
		// What is being dialled comes up and drops, as often as said.
		n, _ := strconv.Atoi(s.args()[0])
		for i := range n {
			for id := range w.dials {
				w.up(id)
				w.down(id)
			}
			if i < n-1 {
				if _, addr, _, _ := w.ask(); len(w.dials) == 0 {
					return fmt.Sprintf("only %d times: %s", i+1, addr)
				}
			}
		}
		return fmt.Sprintf("%d times", n)
	case "reset":
		w.table.resetBackoff()
		return "ok"
	case "stop":
		w.table.stop()
		return "ok"
	case "wait":
		d, err := time.ParseDuration(s.args()[0])
		if err != nil {
			w.t.Fatalf("%s: %v", s.pos, err)
		}
		w.now = w.now.Add(d)
		return fmt.Sprintf("%v since the start", w.now.Sub(w.start))
	case "list":
		for _, r := range w.table.requests() {
			fmt.Fprintf(&out, "%d: %s, %v, %s", r.ID, r.Kind, r.Addr, r.State)
			if r.Retries > 0 {
				fmt.Fprintf(&out, ", %d retries", r.Retries)
			}
			if !r.Next.IsZero() {
				fmt.Fprintf(&out, ", next in %v", r.Next.Sub(w.now))
			}
			if !r.Since.IsZero() {
				fmt.Fprintf(&out, ", up for %v", w.now.Sub(r.Since))
			}
			if r.Cause != nil {
				fmt.Fprintf(&out, " (%v)", r.Cause)
			}
			out.WriteString("\n")
		}
		if out.Len() == 0 {
			return "nothing"
		}
		return out.String()
	}
	w.t.Fatalf("%s: no such command", s.pos)
	return ""
}

// dialAll asks until there is nothing more to dial now. Requests that follow
// one another and read the same share a line.
func (w *tableWorld) dialAll() string {
	var out strings.Builder
	var first, last uint64
	var said string
	flush := func() {
		switch {
		case first == 0:
		case first == last:
			fmt.Fprintf(&out, "%d: %s\n", first, said)
		default:
			fmt.Fprintf(&out, "%d to %d: %s\n", first, last, said)
		}
	}
	for {
		id, addr, wake, ok := w.ask()
		if !ok {
			flush()
			out.WriteString(w.then(wake))
			return out.String()
		}
		if addr == "" {
			addr = "no address"
		}
		if line := fmt.Sprintf("%s, %s", w.reqs[id].Kind(), addr); line != said || id != last+1 {
			flush()
			first, said = id, line
		}
		last = id
	}
}

func (w *tableWorld) then(wake time.Time) string {
	if wake.IsZero() {
		return "nothing more"
	}
	return fmt.Sprintf("nothing more for %v", wake.Sub(w.now))
}

func (w *tableWorld) connect(s step) string {
	who := s.args()[0]
	req := w.names[who]
	if req == nil {
		req = &ConnReq{Permanent: s.has("permanently")}
		if who != "nobody" {
			req.Addr = peerName(who)
		}
		for i, a := range s.args() {
			if a == "or" {
				req.OtherAddrs = append(req.OtherAddrs, peerName(s.args()[i+1]))
			}
		}
		w.names[who] = req
	}
	w.table.connect(req)
	w.reqs[req.ID()] = req
	w.coherent()
	return fmt.Sprintf("%d: %s, %s", req.ID(), req.Kind(), req.State())
}

func (w *tableWorld) one(s step, id uint64, out *strings.Builder) {
	switch s.command() {
	case "up":
		if err := w.up(id); err != nil {
			fmt.Fprintf(out, "%d: refused: %v\n", id, err)
			return
		}
	case "down":
		w.down(id)
	case "fail":
		w.fail(id, errNoAnswer)
	case "disconnect":
		w.drop(w.table.disconnect(id, s.has("again"), w.now))
	case "remove":
		w.drop(w.table.remove(id, w.now))
	case "now":
		if !w.table.dialNow(id, nil) {
			fmt.Fprintf(out, "%d: unknown\n", id)
			return
		}
	}
	if req := w.reqs[id]; req != nil {
		fmt.Fprintf(out, "%d: %s\n", id, req.State())
	} else {
		fmt.Fprintf(out, "%d: unknown\n", id)
	}
}

var _ net.Addr = peerName("")
